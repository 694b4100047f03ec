from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_repository import Toy

from flows.dvc_stage import run_stage
from flows.flow_errors import FlowError
from flows.workspace_lock import drop_stale_dvc_locks, workspace_lock

HOLD = """
import sys
from pathlib import Path
from flows.workspace_lock import workspace_lock
with workspace_lock(Path()):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_is_told_at_once_and_the_third_gets_it(toy: Toy) -> None:
    with workspace_lock(toy.root):
        busy = pytest.raises(FlowError, match=f"is busy: .*process {os.getpid()}")
        with busy, workspace_lock(toy.root):
            pass
    with workspace_lock(toy.root):
        pass


def test_a_killed_holder_does_not_block(toy: Toy) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=toy.root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        busy = pytest.raises(FlowError, match=f"is busy: .*process {holder.pid}")
        with busy, workspace_lock(toy.root):
            pass
        holder.kill()
        holder.wait()
        with workspace_lock(toy.root):
            pass


def test_no_repository(tmp_path: Path) -> None:
    refused = pytest.raises(FlowError, match="not the root of a DVC repository")
    with refused, workspace_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def lock_file(toy: Toy, text: str) -> Path:
    path = toy.root / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        '{"write": {"OUT": {"pid": PID, "cmd": "dvc repro"}}, "read": {}}',
        '{"write": {}, "read": {"OUT": [{"pid": PID, "cmd": "dvc repro"}]}}',
        '{"write": {"OUT": {"pid": 12, "cm',
        "",
        "[]",
    ],
    ids=["number in use again, write", "number in use again, read", "half", "empty", "no locks"],
)
def test_a_stale_dvc_lock_does_not_block(toy: Toy, text: str) -> None:
    # This process is no dvc, so its number in the file is that of one that has died.
    out = toy.root / "out" / "train.txt"
    lock_file(toy, text.replace("PID", str(os.getpid())).replace("OUT", str(out)))
    with workspace_lock(toy.root):
        assert run_stage("train", toy.root, on_line=print).outcome == "ran"


def test_the_lock_of_a_living_dvc_stays(toy: Toy) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input()", "dvc", "repro"], stdin=subprocess.PIPE, text=True
    ) as dvc:
        alive = {"pid": dvc.pid, "cmd": "/somewhere/dvc/__main__.py repro"}
        dead = {"pid": 2**22 + 1, "cmd": "dvc repro"}
        # The number of one that has ended, and is in use again by what only speaks of DVC.
        other = {"pid": dvc.pid, "cmd": "/somewhere/dvc/__main__.py repro train"}
        locks = {
            "write": {"a": alive, "b": dead, "e": other},
            "read": {"c": [alive, dead, other], "d": [dead, other]},
        }
        path = lock_file(toy, json.dumps(locks))
        drop_stale_dvc_locks(path)
        assert json.loads(path.read_text()) == {"write": {"a": alive}, "read": {"c": [alive]}}
        dvc.communicate("\n")
