from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toy_repository import Toy

from flows.process_guard import GuardedProcess


def guarded(toy: Toy, code: str) -> GuardedProcess:
    return GuardedProcess([sys.executable, "-c", code], cwd=toy.root, env=os.environ)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("print('a')", 0),
        ("print('a'); raise SystemExit(7)", 7),
        ("import os; print('a', flush=True); os.kill(os.getpid(), 9)", 137),
    ],
)
def test_status_and_lines(toy: Toy, code: str, status: int) -> None:
    process = guarded(toy, code)
    assert list(process.lines) == ["a\n"]
    assert process.wait() == status
    assert process.poll() is not None
    process.stop()


def test_output_that_is_no_text_is_shown_as_can_be(toy: Toy) -> None:
    process = guarded(toy, "import sys; sys.stdout.buffer.write(b'\\xff\\n50 %\\r100 %\\n')")
    assert list(process.lines) == ["�\n", "50 %\n", "100 %\n"]
    process.stop()


def test_output_can_go_to_a_file(toy: Toy, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-c", "print('a')"]
        process = GuardedProcess(command, cwd=toy.root, env=os.environ, output=log)
    assert process.wait() == 0
    assert (tmp_path / "log").read_text() == "a\n"


def test_int_reaches_a_command_whose_caller_ignores_it(toy: Toy) -> None:
    code = """
import time
print("up", flush=True)
try:
    time.sleep(300)
except KeyboardInterrupt:
    open("tidied", "w").close()
"""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = guarded(toy, code)
        assert next(process.lines) == "up\n"
        process.stop()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (toy.root / "tidied").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_guard_that_is_told_to_end_takes_the_command_along(toy: Toy, number: int) -> None:
    process = guarded(toy, "import time; print('up', flush=True); time.sleep(300)")
    assert next(process.lines) == "up\n"
    os.kill(process._guard.pid, number)
    process.wait()
    assert toy.processes() == []


def test_killed_caller(toy: Toy) -> None:
    caller = subprocess.Popen(
        [
            sys.executable,
            "-c",
            """
import os, sys, time
from pathlib import Path
from flows.process_guard import GuardedProcess
command = [sys.executable, "stage.py", "train", "hang", "stubborn"]
process = GuardedProcess(command, cwd=Path(), env=os.environ)
for line in process.lines:
    print(line, flush=True)
""",
        ],
        cwd=toy.root,
        stdout=subprocess.PIPE,
        text=True,
    )
    with caller:
        assert caller.stdout is not None
        toy.wait_until(lambda: "hanging" in str(caller.stdout and caller.stdout.readline()))
        assert len(toy.processes()) >= 5
        caller.kill()
    toy.wait_until(lambda: not toy.processes())


def test_a_program_that_does_not_exist(toy: Toy) -> None:
    process = GuardedProcess(["no-such-program"], cwd=toy.root, env=os.environ)
    assert "no-such-program" in process.lines.read()
    assert process.wait() != 0
