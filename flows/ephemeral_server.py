"""A Prefect server for the length of one flow run, for those who have none running.

Prefect starts one by itself too, but that one gets Ctrl-C together with the flow and then cannot
record how the run ended, survives a flow that is killed, and talks on the terminal. This one runs
under a `process_guard`, writes to a file, and is reachable from this machine only.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from flows.flow_errors import FlowError
from flows.process_guard import GuardedProcess

# A first start creates the database; 16 s on two free cores.
START_SECONDS = 300.0


def free_port() -> int:
    """A free port of loopback, for a server that must be told its own beforehand.

    It is below those that Linux gives to connections, and to servers that take any (from 32,768
    on): one of these would have it before the server, which takes seconds to come to it.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


class EphemeralServer:
    """A server that has been started; `wait` until it answers, `stop` it in the end.

    Args:
        log: file for what it prints; overwritten.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/api"
        with log.open("w", encoding="utf-8") as output:
            self._process = GuardedProcess(
                [
                    *(sys.executable, "-m", "uvicorn", "--factory"),
                    "prefect.server.api.server:create_app",
                    *("--host", "127.0.0.1", "--port", str(port)),
                    *("--log-level", "error", "--lifespan", "on"),
                ],
                cwd=Path.cwd(),
                env={
                    **os.environ,
                    # As Prefect's own ephemeral server: no pages, and of the background services
                    # only those that record runs.
                    "PREFECT__SERVER_EPHEMERAL": "1",
                    "PREFECT__SERVER_FINAL": "1",
                    "PREFECT_UI_ENABLED": "0",
                    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url_origin(self.url),
                },
                output=output,
            )

    def wait(self) -> None:
        """Return when it answers.

        Raises:
            FlowError: it ended, or did not answer in time; names its log.
        """
        deadline = time.monotonic() + START_SECONDS
        # No proxy: the address is this machine's own.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise FlowError(f"Prefect's server did not start; see {self.log}")
            try:
                with opener.open(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        self.stop()
        raise FlowError(f"Prefect's server did not answer in {START_SECONDS:.0f} s; see {self.log}")

    def stop(self) -> None:
        """End it; what it has been told is in its database."""
        self._process.stop()


def url_origin(url: str) -> str:
    """`http://host:port` of an address."""
    return url.removesuffix("/api")
