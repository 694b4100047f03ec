"""Places in a retraining at which `retrain_kill_points` strikes, seen from outside by audit events.

Every Python process of a retraining loads this at its start (by a `sitecustomize.py` on
PYTHONPATH): the flow, DVC, the stages, the gate, what merges batches, what publishes, the worker.
A place is an event of a process: a file written, renamed, linked or removed in the point's folder,
or a command about to be started, git's among them. Without a trap all of them are recorded; with
one, that process stops at its place until the harness has struck.

Standard library only: it runs before anything else in each process.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

FOLDER = "RETRAIN_POINT"  # environment: the point's folder
TRAP = "RETRAIN_TRAP"  # environment: where to stop; {}: nowhere; unset: record all places
QUICK_STAGES = ("train", "export")
_STEPS = ("step_task", "stage_task")
_FLOWS = ("flows.retrain", "prefect.engine", "prefect.flow_engine")
_KINDS = {
    "open": "write",
    "os.rename": "rename",
    "os.link": "link",
    "os.symlink": "link",
    "os.remove": "remove",
    "os.rmdir": "remove",
    "os.mkdir": "mkdir",
    "shutil.rmtree": "rmtree",
    "subprocess.Popen": "start",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_WAIT_SECONDS = 60.0


def set_up() -> None:
    """Record the places of this process, or wait at one, if it is one of a retraining's."""
    folder, process = os.environ.get(FOLDER), _process_name(sys.orig_argv)
    if folder is None or process is None:
        return
    if process == "flow":
        # Two quick stages stand for six: each is run by the same code.
        import tasks.layout

        tasks.layout.STAGES = QUICK_STAGES  # type: ignore[assignment]
    sys.addaudithook(_Watch(Path(folder), process))


def _process_name(words: list[str]) -> str | None:
    if "--multiprocessing-fork" in words:
        # A worker runs a flow in a process that it spawns.
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")
        return "flow" if b"flows.serve" in parent else None
    for number, word in enumerate(words[1:], 1):
        if word == "-m":
            module, *rest = words[number + 1 :]
            if module in _FLOWS:
                return "flow"
            return " ".join([module, *rest[:1]]) if module in ("dvc", "wandb") else module
        if not word.startswith("-"):
            return Path(word).name
    return None


class _Watch:
    def __init__(self, folder: Path, process: str) -> None:
        self.folder, self.process = folder, process
        self.occurrence = self._count_me()
        self.event = 0
        trap = json.loads(os.environ.get(TRAP, "null"))
        self.recording = trap is None
        mine = bool(trap) and (trap["process"], trap["occurrence"]) == (process, self.occurrence)
        self.stop_at = trap["event"] if mine else -1
        self.step = "start"
        self._lock = threading.Lock()
        self._busy = threading.local()

    def _count_me(self) -> int:
        number = 0
        while True:
            try:
                name = f"{self.process}-{number}"
                os.close(os.open(self.folder / "seen" / name, os.O_CREAT | os.O_EXCL))
                return number
            except FileExistsError:
                number += 1

    def __call__(self, name: str, arguments: tuple[Any, ...]) -> None:
        kind = _KINDS.get(name)
        if kind is None or getattr(self._busy, "now", False):
            return
        what = self._what(kind, arguments)
        if what is None:
            return
        self._busy.now = True
        try:
            with self._lock:
                number, self.event = self.event, self.event + 1
            self._look(number, kind, what)
        finally:
            self._busy.now = False

    def _what(self, kind: str, arguments: tuple[Any, ...]) -> str | None:
        """What an event is about, if it changes something of the point's."""
        if kind == "start":
            words = [os.fsdecode(word) for word in arguments[1]]
            return " ".join(word for word in words[:8] if "/" not in word)
        if kind == "write" and not (isinstance(arguments[2], int) and arguments[2] & _WRITING):
            return None
        # Of a rename the place where it goes to.
        path = arguments[1] if kind in ("rename", "link") else arguments[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - resolves no link
        inside = any(place.startswith(f"{self.folder}/{name}/") for name in ("repo", "remote"))
        return os.path.relpath(place, self.folder) if inside else None

    def _look(self, number: int, kind: str, what: str) -> None:
        step_file = self.folder / "step"
        if self.process == "flow":
            self.step = _step_of_flow() or self.step
            if kind == "start":
                step_file.write_text(self.step)
        if self.recording:
            step = self.step if self.process == "flow" else step_file.read_text()
            place = {"step": step, "process": self.process, "occurrence": self.occurrence}
            line = json.dumps({**place, "event": number, "kind": kind, "what": what})
            with (self.folder / "events.jsonl").open("a") as file:
                file.write(line + "\n")
        elif number == self.stop_at:
            # In one step, so that the harness reads all of it.
            draft = self.folder / "struck.part"
            draft.write_text(json.dumps({"pid": os.getpid(), "kind": kind, "what": what}))
            draft.rename(self.folder / "struck")
            deadline = time.monotonic() + _WAIT_SECONDS
            while not (self.folder / "go").exists() and time.monotonic() < deadline:
                time.sleep(0.002)


def _step_of_flow() -> str | None:
    """Name of the step that the flow is in: a local name of the task's function."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in _STEPS and "name" in frame.f_locals:
            return str(frame.f_locals["name"])
        frame = frame.f_back  # type: ignore[assignment]
    return None
