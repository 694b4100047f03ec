"""A run does not outlive the process that serves it, however that one dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

# For a run to end its stage, remove its worktree and tell the server; longer than a guard takes.
RUN_SECONDS = 20.0


def end_with_parent() -> None:
    """End this process soon after the one that serves it is gone; elsewhere, do nothing.

    TERM first, at which Prefect records the run as crashed and the flow tidies up; then, should the
    server not answer, without a word more. Its stage ends with it (`flows.process_guard`).
    """
    parent = multiprocessing.parent_process()
    if parent is None:  # a command, or a work pool's
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(RUN_SECONDS)
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
