"""Prefect's runner of served flows, but INT and TERM end it, and the run at work, in bounded time.

Of itself the runner answers TERM by asking the server to pause the deployment. Where that does not
come off, and it never does in a runner that is being torn down, the run is not told to end, and the
process waits for it for as long as it takes.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import psutil
from prefect.client.orchestration import get_client
from prefect.runner import Runner

from flows.process_guard import GUARD_DEADLINE
from flows.served_run import RUN_SECONDS

# Ctrl-C in a terminal reaches the run, too, and a second signal would disturb it at tidying up.
PATIENCE_AFTER_INT = 8.0
PAUSE_SECONDS = 10.0
# For what Prefect still wants to send when the interpreter exits.
LAST_WORDS_SECONDS = 8.0
END_SECONDS = RUN_SECONDS + GUARD_DEADLINE + LAST_WORDS_SECONDS


class StoppableRunner(Runner):
    """Runs one run at a time until it is told to end.

    Args:
        name: of the deployment.
    """

    def __init__(self, name: str) -> None:
        # Pausing is done here, where it may fail.
        super().__init__(name=name, limit=1, pause_on_shutdown=False)
        self._deployment: UUID | None = None
        self._status: int | None = None
        self._cancel: Callable[[], object] = lambda: None
        self._told, self._loop_over = threading.Event(), threading.Event()
        self._runs_over = threading.Event()

    def serve(self, deployment: UUID) -> int:
        """Serve until INT, TERM or `end`.

        Where the runner gives up by itself, which it does when the server does not answer for some
        minutes, a run at work goes on to its end.

        Args:
            deployment: the one that was added.

        Returns:
            The exit status: 130 after INT, 143 after TERM, or what `end` was told.
        """
        self._deployment = deployment
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_sigterm)
        # Now, as an interpreter that exits starts no thread any more.
        threading.Thread(target=self._end_in_time, name="end", daemon=True).start()
        try:
            asyncio.run(self._until_told())
        except asyncio.CancelledError:
            pass
        except Exception:
            # Told to end, it may fail of a server that is gone; no more than that it had to end.
            if not self._told.is_set():
                raise
        finally:
            self._loop_over.set()
            for run in multiprocessing.active_children():
                run.join()
            if self._told.is_set():
                self._runs_over.wait()
        return 1 if self._status is None else self._status

    def end(self, status: int) -> None:
        """Have all ended, within `END_SECONDS`; from any thread.

        Args:
            status: to exit with.
        """
        if self._status is None:
            self._status = status
        self._told.set()
        with suppress(RuntimeError):  # the loop is over
            self._cancel()

    def handle_sigterm(self, *args: Any, **kwargs: Any) -> None:
        """Handler of INT and of TERM; the runner installs it for TERM itself."""
        status = 128 + int(args[0])
        # Written past `sys.stderr`, which the signal may have come in the middle of.
        if self._told.is_set():
            os.write(2, b"stopped at once\n")
            # The guards of their stages see that they are gone.
            for run in multiprocessing.active_children():
                run.kill()
            os._exit(status)
        latest = f"{END_SECONDS:.0f} s at the latest"
        os.write(2, f"stopping; done in {latest}, or at once when asked again\n".encode())
        self.end(status)

    async def __aexit__(self, *exc_info: Any) -> None:
        try:
            async with asyncio.timeout(PAUSE_SECONDS):
                async with get_client() as client:
                    if self._deployment is not None:
                        await client.pause_deployment(self._deployment)
        except Exception as error:  # noqa: BLE001 - of many kinds, and none must keep a run going
            print(f"its schedule is not paused: {type(error).__name__}", file=sys.stderr)
        await super().__aexit__(*exc_info)

    async def _until_told(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        if not self._told.is_set():
            await self.start()

    def _end_in_time(self) -> None:
        """Once told so: end the runs, and then this process, should it still be there."""
        self._told.wait()
        self._end_runs()
        self._runs_over.set()
        time.sleep(LAST_WORDS_SECONDS)
        assert self._status is not None
        os._exit(self._status)

    def _end_runs(self) -> None:
        now = time.monotonic()
        latest = now + RUN_SECONDS
        patience = now + (PATIENCE_AFTER_INT if self._status == 128 + signal.SIGINT else 0)
        asked: set[int | None] = set()
        # One may be about to start as long as the loop runs.
        while (runs := multiprocessing.active_children()) or not self._loop_over.is_set():
            now = time.monotonic()
            if now > latest:
                break
            for run in runs:
                if now >= patience and run.pid not in asked:
                    run.terminate()
                    asked.add(run.pid)
            time.sleep(0.05)
        left: list[psutil.Process] = []
        for run in runs:
            with suppress(psutil.NoSuchProcess):
                left += psutil.Process(run.pid).children(recursive=True)
            run.kill()
        # Their guards end them, now that they are gone.
        psutil.wait_procs(left, GUARD_DEADLINE)
