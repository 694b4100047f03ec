"""Runs a hostile set through reading and validation in a process of its own, and judges the end."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile import SECRET, Case, make

from components.contract.readers import read_dataset
from components.errors import TimmflowError
from components.validation.run import validate_reading
from components.validation.settings import ValidateSettings

MOST_SECONDS = 10
_PATIENCE = 60  # times as long as that may pass on a busy machine
MOST_BYTES = 1.5 * 2**30
_SETTINGS = ValidateSettings(num_workers=1, min_images_per_class=0)
# Cases are forked from a server that has read this module and no more: a child of this process
# would have its memory, which after a hundred tests is a gigabyte, counted as its own.
_FRESH = multiprocessing.get_context("forkserver")
_FRESH.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class End:
    """How a case ended.

    Args:
        verdict: `findings`, `error`, `clean`, or what went wrong: `crash`, `killed`.
        detail: checks, the error, or the traceback.
        seconds: of the processor, for reading and validating.
        megabytes: most memory that the process had.
        faults: what must not be; empty if all is well.
    """

    verdict: str
    detail: str
    seconds: float
    megabytes: float
    faults: tuple[str, ...]


def run(case: Case, seconds: int = MOST_SECONDS) -> End:
    """Build a case in a folder of its own, and read and validate it in a child process."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder).resolve()
        outside = base / "outside"
        outside.mkdir()
        (outside / SECRET).write_bytes(make("detection", 77, {"train": 1}).samples[0].data)
        case.build(base / "raw", outside)
        before = _digest(base)
        answer = base / "answer.json"
        child = _FRESH.Process(
            target=_in_child, args=(case.format, case.task, base, answer, seconds)
        )
        child.start()
        child.join()
        told: dict[str, Any] = {
            "verdict": "killed", "detail": f"status {child.exitcode}", "read": [],
            "seconds": float(seconds), "megabytes": 0.0,
        }  # fmt: skip
        if answer.exists():
            told = json.loads(answer.read_text())
            answer.unlink()
        passed, megabytes = told["seconds"], told["megabytes"]
        faults = []
        if told["verdict"] in ("crash", "killed"):
            faults.append(f"{told['verdict']}: {told['detail'][-1500:]}")
        if told["verdict"] == "clean" and not case.may_pass:
            faults.append("nothing was found")
        if passed > seconds:
            faults.append(f"took {passed:.1f} s")
        if megabytes * 2**20 > MOST_BYTES:
            faults.append(f"took {megabytes:.0f} MiB")
        faults += [f"read outside the data: {path}" for path in told["read"]]
        if _digest(base) != before:
            faults.append("a file was written or changed")
        return End(told["verdict"], told["detail"], passed, megabytes, tuple(faults))


def _in_child(format: str, task: str, base: Path, answer: Path, seconds: int) -> None:
    """Never returns."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # Time of the processor, as other programs may keep it busy; but waiting must end as well.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    signal.alarm(_PATIENCE * seconds)
    root, read = base / "raw", set()
    outside = str(base / "outside")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.listdir", "os.scandir") or not arguments:
            return
        if isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if path.startswith((outside, "/etc/passwd", "/dev/zero", "/proc")) or path == "/":
                read.add(path)

    sys.addaudithook(watch)
    try:
        try:
            reading = read_dataset(root, format, task)  # type: ignore[arg-type]
            result = validate_reading(reading, _SETTINGS)
            json.dumps(result.report(), allow_nan=False).encode()
            checks = sorted({item.check for item in result.findings})
            told = {"verdict": "findings" if checks else "clean", "detail": ", ".join(checks)}
            if any(item.check == "check-failed" for item in result.findings):
                shown = [str(item) for item in result.findings if item.check == "check-failed"]
                told = {"verdict": "crash", "detail": shown[0]}
        except TimmflowError as error:
            told = {"verdict": "error", "detail": str(error)[:300]}
        except BaseException:  # noqa: BLE001
            told = {"verdict": "crash", "detail": traceback.format_exc()}
        usage = resource.getrusage(resource.RUSAGE_SELF)
        figures = {
            "read": sorted(read),
            "seconds": usage.ru_utime + usage.ru_stime,
            "megabytes": usage.ru_maxrss / 1024,
        }
        answer.write_text(json.dumps({**told, **figures}))
    finally:
        os._exit(0)


def _digest(base: Path) -> str:
    total = hashlib.sha256()
    for parent, folders, names in os.walk(base):
        folders.sort()
        for name in sorted([*names, *folders]):
            path = os.path.join(parent, name)  # noqa: PTH118
            facts = os.lstat(path)
            total.update(f"{os.fsencode(path)!r} {facts.st_mode} {facts.st_mtime_ns}".encode())
            total.update(f" {facts.st_size}".encode() if name in names else b"")
    return total.hexdigest()
