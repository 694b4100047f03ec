"""One flow at a time in a workspace, and no lock that a dead process left can stop the next one."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.files import write_json
from flows.flow_errors import FlowError

# How long to wait for the guard of a flow that was killed: it holds the lock until the last process
# of the stage has gone.
CLEANING_SECONDS = 15.0


@contextmanager
def workspace_lock(root: Path) -> Iterator[int]:
    """Hold the workspace for the length of the block.

    The operating system releases the lock when its last holder ends, however it ends. Gives the
    file descriptor, for a `GuardedProcess` to hold it too: a flow that is killed keeps the
    workspace until its stage is really gone.

    Raises:
        FlowError: `root` is no DVC repository, or another flow is at work in it.
    """
    root = Path(root).resolve()
    with lock_file(root, "timmflow.lock", "flow") as descriptor:
        drop_stale_dvc_locks(root / ".dvc" / "tmp" / "rwlock")
        yield descriptor


@contextmanager
def lock_file(root: Path, name: str, what: str) -> Iterator[int]:
    """Hold one of a repository's locks for the length of the block; see `workspace_lock`.

    Args:
        root: the repository's root.
        name: of the lock's file in `.dvc/tmp`.
        what: its holder is, in a word, for the message to the next.
    """
    if not (root / ".dvc").is_dir():
        raise FlowError(f"{root}: not the root of a DVC repository (no .dvc folder); see --root")
    path = root / ".dvc" / "tmp" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, root, what)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        # Closed, not unlocked: unlocking would take it from a guard that is still cleaning up.
        os.close(descriptor)


def _acquire(descriptor: int, root: Path, what: str) -> None:
    deadline = time.monotonic() + CLEANING_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            written = os.pread(descriptor, 32, 0)
            holder = int(written) if written.isdigit() else None
            cleaning = holder is not None and not _exists(holder)
            if not cleaning or time.monotonic() > deadline:
                who = f" (process {holder})" if holder else ""
                raise FlowError(
                    f"{root} is busy: another {what}{who} is at work there; wait for it, or use "
                    "another copy of the repository"
                ) from None
            time.sleep(0.1)


def _exists(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def drop_stale_dvc_locks(path: Path) -> None:
    """Take entries of dead processes out of DVC's read-write lock file.

    DVC does so itself when the process id is free. After a restart of a container the same small
    numbers are in use again, and DVC would call the workspace busy for ever. A file that a killed
    DVC left half-written is removed. Call with the workspace lock held.
    """
    for patience in (0.2, 0.2, 0.0):
        try:
            locks: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
            break
        except FileNotFoundError:
            return
        except ValueError:
            # A `dvc` command of the user's may be writing it this very moment.
            time.sleep(patience)
    else:
        path.unlink(missing_ok=True)
        return
    if not isinstance(locks, dict):
        path.unlink(missing_ok=True)
        return
    kept: dict[str, dict[str, Any]] = {
        "write": {name: info for name, info in locks.get("write", {}).items() if _is_held(info)},
        "read": {
            name: living
            for name, infos in locks.get("read", {}).items()
            if (living := [info for info in infos if _is_held(info)])
        },
    }
    if kept != {"write": locks.get("write", {}), "read": locks.get("read", {})}:
        write_json(path, kept)


def _is_held(info: dict[str, Any]) -> bool:
    """Whether the process that wrote an entry lives, and is not another one with its number.

    DVC notes its arguments. Those that lead to Python's own (`-m dvc`) differ from the process's,
    the last one does not.
    """
    import psutil

    try:
        line = psutil.Process(info["pid"]).cmdline()
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False
    return " ".join(line).endswith(str(info.get("cmd", "")).rpartition(" ")[2])
