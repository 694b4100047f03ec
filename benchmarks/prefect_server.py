"""A Prefect server with all its services, for benchmarks; on loopback, with its own database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from flows.ephemeral_server import free_port

START_SECONDS = 600  # the machine may be busy


class PrefectServer:
    """A server that answers when this returns; `kill` it, or leave its block.

    Args:
        home: folder of its database and its log.
        port: to listen on; 0: a free one.

    Raises:
        RuntimeError: it does not start; names its log.
    """

    def __init__(self, home: Path, port: int = 0) -> None:
        self.home, self.port = home, port or free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        home.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        """Start it, again after `kill`, with its database and at the same address.

        Raises:
            RuntimeError: it does not start; names its log.
        """
        env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        env |= {"PREFECT_HOME": str(self.home), "PREFECT_API_URL": self.url, "DO_NOT_TRACK": "1"}
        env |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        words = ["server", "start", "--host", "127.0.0.1", "--port", str(self.port), "--no-ui"]
        with (self.home / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *words],
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait()

    def __enter__(self) -> PrefectServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def flow_runs(self, limit: int = 10) -> list[dict[str, Any]]:
        """The last runs that have begun, the newest first; `seconds` is when, since 1970."""
        begun = {"start_time": {"is_null_": False}}
        wanted = {"sort": "START_TIME_DESC", "limit": limit, "flow_runs": begun}
        body = json.dumps(wanted).encode()
        request = urllib.request.Request(
            f"{self.url}/flow_runs/filter", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            runs: list[dict[str, Any]] = json.load(answer)
        for run in runs:
            run["seconds"] = datetime.fromisoformat(run["start_time"]).timestamp()
        return runs

    def kill(self) -> None:
        """End it as a crash would; its database stays."""
        if self._process.poll() is not None:
            return
        main = psutil.Process(self._process.pid)
        for process in [main, *main.children(recursive=True)]:
            process.kill()
        self._process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"no Prefect server; see {self.home / 'server.log'}")
