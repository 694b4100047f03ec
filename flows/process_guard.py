"""Start a command that cannot outlive the process that asked for it, however that one dies.

    flow ── starts ──▶ guard ── starts, in a session of its own ──▶ command ─▶ its children
      └── holds the write end of a pipe ──▶ guard's standard input

When the pipe closes, because the flow wants the command stopped or because the flow was killed, the
guard sends the command and all that descends from it INT, then TERM, then KILL. An `except` or an
`atexit` in the flow could not do this: nothing runs in a process that gets KILL.

This file is run as a script by `GuardedProcess`. It needs the standard library only, so that it is
up in milliseconds; psutil is imported when there is something to kill.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

# Seconds a process has to go by itself after each signal. INT is what Ctrl-C sends, so training may
# tidy up; everything that must last is written atomically before, so more patience buys nothing.
GRACE_INT = 3.0
GRACE_TERM = 1.5
GRACE_KILL = 2.0
# Longer than the guard takes in the worst case.
GUARD_DEADLINE = GRACE_INT + GRACE_TERM + GRACE_KILL + 5


class GuardedProcess:
    """A running command under guard.

    Args:
        command: program and arguments.
        cwd: its working directory.
        env: its whole environment.
        output: where its output goes: a file, or None for the pipe `lines` reads.
        keep_open: file descriptors (a lock) that stay open until everything has been cleaned up,
            even when the caller is killed.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        output: IO[Any] | None = None,
        keep_open: Sequence[int] = (),
    ) -> None:
        # -I: nothing of the environment or the working directory reaches the guard's own imports.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).resolve()), *command],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if output is None else output,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(keep_open),
            # Ctrl-C in a terminal goes to the flow alone; it decides what the command gets.
            start_new_session=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )

    @property
    def lines(self) -> IO[str]:
        """Standard output and standard error of the command, interleaved as written."""
        assert self._guard.stdout is not None, "the output goes to a file"
        return self._guard.stdout

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._guard.poll()

    def wait(self) -> int:
        """Wait for the end; returns the exit status, 128 + n after signal n, as in a shell."""
        status = self._guard.wait()
        self._close()
        return 128 - status if status < 0 else status

    def ask_to_stop(self) -> None:
        """Have the command and all that descends from it ended, without waiting for that.

        Unlike the other methods for any thread.
        """
        if self._guard.stdin is not None:
            self._guard.stdin.close()

    def stop(self) -> None:
        """End the command and all that descends from it, and wait until they are gone.

        Returns within seconds. Does nothing when they have ended already.
        """
        self.ask_to_stop()
        try:
            self._guard.wait(GUARD_DEADLINE)
        except subprocess.TimeoutExpired:
            # Only a process that not even KILL can end (stuck in the kernel) gets us here.
            self._guard.kill()
            self._guard.wait()
        finally:
            self._close()

    def _close(self) -> None:
        for stream in (self._guard.stdin, self._guard.stdout):
            if stream is not None:
                stream.close()


def guard(command: Sequence[str]) -> int:
    """Run `command` until it ends or standard input closes; then end all that descends from it.

    Returns:
        The command's exit status; 128 + n when signal n ended it.
    """
    # A background job of a shell script inherits "ignore INT". The command must not.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _adopt_orphans()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    ended, has_ended = os.pipe()

    def stop_on_signal(number: int, frame: object) -> None:
        os.write(has_ended, b"!")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop_on_signal)

    def wait_for_child() -> None:
        child.wait()
        os.write(has_ended, b".")

    threading.Thread(target=wait_for_child, daemon=True).start()
    select.select([sys.stdin.fileno(), ended], [], [])
    # Also after a normal end: a worker that a stage left behind would keep files and memory.
    _end_all(child)
    status = child.wait()
    return 128 - status if status < 0 else status


def _adopt_orphans() -> None:
    """Make descendants whose parent dies children of this process, so that none can be lost.

    Without this a process that left the session (a daemon, wandb's service) could not be told from
    a stranger once its parent is gone. Linux only; elsewhere the process group has to do.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    set_child_subreaper = 36
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def _end_all(child: subprocess.Popen[bytes]) -> None:
    """INT, TERM, KILL to the child's process group and to every descendant."""
    for number, grace in (
        (signal.SIGINT, GRACE_INT),
        (signal.SIGTERM, GRACE_TERM),
        (signal.SIGKILL, GRACE_KILL),
    ):
        if not _alive(child):
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        for process in _alive(child):
            # The group has had it; twice INT would be taken for impatience by some programs.
            if number == signal.SIGKILL or process.group != child.pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, number)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and _alive(child):
            time.sleep(0.03)


class _Process:
    def __init__(self, pid: int, group: int) -> None:
        self.pid, self.group = pid, group


def _alive(child: subprocess.Popen[bytes]) -> list[_Process]:
    """Every descendant that still runs; reaps the adopted ones that have ended."""
    import psutil

    alive = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(_Process(process.pid, os.getpgid(process.pid)))
            elif process.ppid() == os.getpid() and process.pid != child.pid:
                os.waitpid(process.pid, os.WNOHANG)
        except (psutil.Error, ProcessLookupError, ChildProcessError):
            continue
    return alive


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
