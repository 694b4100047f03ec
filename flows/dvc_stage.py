"""Run one DVC stage as a command, with its output as it comes, and tell what became of it.

DVC's maintainers promise stability for the command line only, its locks do not keep two threads of
one process apart, and a command can be killed. Hence a subprocess, under a `process_guard`.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.hidden import hidden, secrets_of
from flows.flow_errors import FlowError, StageFailed
from flows.process_guard import GuardedProcess
from tasks.repository import dvc_command, dvc_environment

Outcome = Literal["ran", "restored", "skipped"]

# Of `time.monotonic()`, after which every command that runs here is ended.
deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
# Lines kept for the message of a failure that has no line of its own.
NUM_LAST_LINES = 15
# What git says of a branch or a tag with which all went well; there may be many.
_TAKEN = re.compile(r" [ +\-t*=] ")


@dataclass(frozen=True)
class StageResult:
    """How a stage went.

    Args:
        stage: its name.
        outcome: `ran`; `restored`, from DVC's cache; `skipped`, as nothing had changed.
        seconds: wall clock, DVC's own time included.
    """

    stage: str
    outcome: Outcome
    seconds: float


def run_stage(
    stage: str,
    root: Path,
    *,
    on_line: Callable[[str], None],
    force: bool = False,
    env: Mapping[str, str] | None = None,
    lock: int | None = None,
    stopped: Callable[[], bool] | None = None,
) -> StageResult:
    """`dvc repro -s <stage>` in the repository `root`.

    Whatever ends this call early (Ctrl-C, a cancelled flow run) ends every process of the stage
    first. If the calling process is killed they end too, a few seconds later.

    Args:
        stage: a stage of `dvc.yaml`.
        root: the repository's root.
        on_line: called with each line of output, without its end and without secrets, as it is
            written.
        force: run it even if nothing has changed.
        env: variables on top of this process's environment.
        lock: descriptor of the workspace lock, held until the stage's last process has gone.
        stopped: asked every half a second, by another thread; once true the stage is ended.

    Raises:
        StageFailed: the stage or DVC ended with an error, or was ended since `stopped`.
    """
    options: dict[str, Any] = {"env": env, "lock": lock, "stopped": stopped}
    words = ["repro", "--single-item", *(["--force"] if force else []), stage]
    return _about(stage, words, root, on_line, options)


def checkout_stage(
    stage: str,
    root: Path,
    *,
    on_line: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    lock: int | None = None,
    stopped: Callable[[], bool] | None = None,
) -> None:
    """Bring what `dvc.lock` says of a stage's outputs from DVC's cache; as `run_stage` otherwise.

    Raises:
        StageFailed: the cache does not have them.
    """
    options: dict[str, Any] = {"env": env, "lock": lock, "stopped": stopped}
    _about(stage, ["checkout", "--force", stage], root, on_line, options)


def unchanged_stages(stages: Sequence[str], root: Path, *, lock: int | None = None) -> set[str]:
    """Those of the stages that have nothing to do, by one question to DVC.

    A start of DVC takes over a second, so asking once for all is what keeps a flow quick that has
    nothing to do. Where DVC cannot tell there are none: running a stage then says why.

    Args:
        stages: of `dvc.yaml`.
        root: the repository's root.
        lock: as of `run_stage`.
    """
    if not stages:  # named none, DVC would look at all
        return set()
    lines: list[str] = []
    words = dvc_command("status", "--json", *stages)
    if run_guarded(words, root, on_line=lines.append, lock=lock) != 0:
        return set()
    # DVC may have said something else before.
    answer = next((line for line in reversed(lines) if line.startswith("{")), None)
    return set() if answer is None else set(stages) - set(json.loads(answer))


def _about(
    stage: str,
    words: Sequence[str],
    root: Path,
    on_line: Callable[[str], None],
    options: dict[str, Any],
) -> StageResult:
    """Run a command of DVC about one stage, and read what became of that."""
    started = time.perf_counter()
    output = StageOutput(stage)

    def heard(line: str) -> None:
        output.add(line)
        on_line(line)

    status = run_guarded(dvc_command(*words), root, on_line=heard, **options)
    seconds = time.perf_counter() - started
    if status != 0:
        raise StageFailed(stage, output.reason(status), seconds)
    return StageResult(stage, output.outcome, seconds)


def run_guarded(
    command: Sequence[str],
    root: Path,
    *,
    on_line: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    lock: int | None = None,
    stopped: Callable[[], bool] | None = None,
) -> int:
    """Exit status of a command; when this returns or raises, no process of it is left.

    Args:
        command: program and arguments.
        root: its working directory; the others are as of `run_stage`.

    Raises:
        FlowError: it had not succeeded at the deadline.
    """
    whole_env = dvc_environment(env)
    # What is heard goes into logs, messages, artifacts and commits.
    secrets = secrets_of(whole_env)
    process = GuardedProcess(
        command,
        cwd=Path(root),
        env=whole_env,
        keep_open=[] if lock is None else [lock],
    )
    over = threading.Event()
    latest = deadline.get()

    def watch() -> None:
        while not over.wait(0.5):
            if time.monotonic() > latest or (stopped is not None and stopped()):
                process.ask_to_stop()
                return

    if stopped is not None or latest < math.inf:
        threading.Thread(target=watch, daemon=True).start()
    try:
        for line in process.lines:
            on_line(hidden(line.rstrip("\n"), secrets))
        status = process.wait()
    finally:
        over.set()
        # Every way out, KeyboardInterrupt and Prefect's TerminationSignal included.
        process.stop()
    if status != 0 and time.monotonic() > latest:
        raise FlowError("ended by the limit of its step")
    return status


def run_again(
    command: Sequence[str],
    what: str,
    root: Path,
    on_line: Callable[[str], None],
    waits: Sequence[float],
    options: Mapping[str, Any],
) -> None:
    """Run a command as `run_guarded` does, again after each of some waits until it succeeds.

    Args:
        command: program and arguments.
        what: it is, such as `git push`.
        root: its working directory.
        on_line: as of `run_stage`.
        waits: seconds.
        options: `env`, `lock` and `stopped`, as of `run_stage`.

    Raises:
        FlowError: it failed each time.
    """
    for wait in (*waits, None):
        output = StageOutput(what, program=what.partition(" ")[0])

        def heard(line: str, output: StageOutput = output) -> None:
            output.add(line)
            on_line(line)

        status = run_guarded(command, root, on_line=heard, **options)
        if status == 0:
            return
        if wait is None:
            raise FlowError(f"{what}: {output.reason(status)}")
        on_line(f"{what} failed; again in {wait:g} s")
        time.sleep(wait)


class StageOutput:
    """Reads the outcome, and the reason of a failure, from the lines DVC and the stage print.

    Args:
        stage: its name, or that of another command, such as `git push`.
        program: that runs it.
    """

    def __init__(self, stage: str, program: str = "dvc") -> None:
        self.stage = stage
        self._program = program
        # DVC says "didn't change" for a stage and is silent about some that never run (frozen).
        self.outcome: Outcome = "skipped"
        self._last: deque[str] = deque(maxlen=NUM_LAST_LINES)
        self._error: list[str] = []
        self._dvc_error: list[str] = []
        self._open: list[str] | None = None

    def add(self, line: str) -> None:
        """Take the next line."""
        if line == f"Running stage '{self.stage}':":
            self.outcome = "ran"
        elif line.startswith(f"Stage '{self.stage}' is cached - skipping run"):
            self.outcome = "restored"
        # A message may have several lines; it goes on until DVC has the word again.
        if line.startswith("error: "):
            self._error = self._open = []
        elif line.startswith("ERROR: "):
            self._open = None if self._dvc_error else self._dvc_error
        elif not line.strip():
            self._open = None
        if self._open is not None:
            self._open.append(line)
        if self._program == "git" and _TAKEN.match(line):
            return
        if line.strip() and not line.startswith(("Running stage ", "> ", "ERROR: failed to repro")):
            self._last.append(line)

    def reason(self, status: int) -> str:
        """Why it failed, in the words of whoever failed: the stage itself, or else DVC."""
        # git's `error: ` says that something failed; what, the remote or another line has said.
        if self._error and self._program != "git":
            text = "\n".join(self._error).removeprefix("error: ")
            return text.removeprefix(f"{self.stage}: ")
        if self.outcome == "ran" and self._last:
            return "ended with an error; its last lines:\n" + "\n".join(
                f"  {line}" for line in self._last
            )
        if self._dvc_error:
            return "\n".join(self._dvc_error).removeprefix("ERROR: ")
        said = "".join(f"\n  {line}" for line in self._last)
        return f"{self._program} ended with status {status}" + (f":{said}" if said else "")
