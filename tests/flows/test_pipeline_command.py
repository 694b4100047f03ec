"""`python -m flows.pipeline` as a person or a scheduler uses it: a real process, real signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from toy_repository import CODE, Command, Toy

from tasks.layout import STAGES


def test_help_needs_no_prefect() -> None:
    code = """
import runpy, sys
sys.argv = ["flows.pipeline", "--help"]
try:
    runpy.run_module("flows.pipeline", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert end.code == 0
assert "prefect" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CODE, capture_output=True, text=True, check=True
    )
    assert "--quiet" in done.stdout


def test_importing_the_package_does_no_work() -> None:
    code = "import os, sys; before = dict(os.environ); import flows, flows.pipeline_command"
    check = "; assert os.environ == before; assert 'prefect' not in sys.modules"
    subprocess.run([sys.executable, "-c", code + check], cwd=CODE, check=True)


@pytest.mark.slow
def test_quiet_is_a_line_a_stage(toy: Toy, command: Command) -> None:
    (toy.root / "reports").mkdir()
    (toy.root / "reports" / "index.html").touch()
    done = command("--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:6]] == [[name, "ran"] for name in STAGES]
    line = r"train +ran +\d+\.\d s  best epoch 9 of 10, val/map 0\.712"
    assert re.fullmatch(line, lines[2])
    assert [line.split() for line in lines[6:]] == [
        ["metrics", "metrics/evaluate.json"],
        ["page", "reports/index.html"],
    ]
    again = command("--quiet")
    assert again.stdout.count("skipped") == 6


def test_stage_output_is_shown(toy: Toy, command: Command) -> None:
    done = command("--stages", "train", "--root", str(toy.root))
    assert (done.returncode, done.stderr) == (0, "")
    assert "working on train\n" in done.stdout
    assert "working on validate" not in done.stdout


@pytest.mark.parametrize("quiet", [True, False])
def test_a_failing_stage_says_why_once(toy: Toy, command: Command, quiet: bool) -> None:
    toy.tell("preprocess", "fail")
    done = command(*(["--quiet"] if quiet else []))
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count("train.lr = -1: must be above 0") == 1
    assert "Traceback" not in done.stdout + done.stderr
    if quiet:
        said = "error: preprocess: params.yaml: 1 error\n  train.lr = -1: must be above 0\n"
        assert done.stderr == said
    assert re.search(r"^preprocess  failed +\d+\.\d s$", done.stdout, re.MULTILINE)
    assert "\ntrain " not in done.stdout


def test_outside_a_repository(toy: Toy, command: Command) -> None:
    done = command("--root", str(toy.root.parent))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "not the root of a DVC repository" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_that_does_not_answer(toy: Toy) -> None:
    done = Command(toy, "http://127.0.0.1:9/api")("--quiet")
    assert done.returncode == 1
    assert "the Prefect server at http://127.0.0.1:9/api" in done.stderr
    assert "Traceback" not in done.stderr


def hang(toy: Toy, command: Command, mode: str) -> subprocess.Popen[str]:
    """Start the flow and return when its stage and that one's children are running."""
    toy.tell("train", mode)
    process = command.start("--quiet", "--stages", "train")
    wanted = {"child", "stubborn"} if "stubborn" in mode else {"child"}

    def up() -> bool:
        assert process.poll() is None, process.communicate()
        return wanted <= {words[3] for words in toy.commands() if len(words) > 3}

    toy.wait_until(up)
    return process


def finish(toy: Toy, process: subprocess.Popen[str], number: int) -> tuple[int, str, float]:
    """Send the signal; wait until nothing is left at work in the repository."""
    started = time.monotonic()
    os.kill(process.pid, number)
    with process:
        output, errors = process.communicate(timeout=600)
    toy.wait_until(lambda: not toy.processes())
    return process.returncode, output + errors, time.monotonic() - started


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9), (signal.SIGHUP, -1)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), SIGNALS)
@pytest.mark.parametrize("mode", ["hang", "hang stubborn"])
def test_nothing_survives_and_the_next_run_completes(
    toy: Toy, command: Command, number: int, status: int, mode: str
) -> None:
    code, said, _ = finish(toy, hang(toy, command, mode), number)
    assert code == status
    assert "Traceback" not in said
    toy.tell("train", "ok")
    done = command("--quiet", "--stages", "train")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("train       ran ")


@pytest.mark.slow
def test_next_run_may_start_at_once_after_a_kill(toy: Toy, command: Command) -> None:
    process = hang(toy, command, "hang stubborn")
    with process:
        process.kill()
    # The old stage still takes some seconds to die. The new flow waits for it.
    done = command("--quiet", "--stages", "validate")
    assert (done.returncode, done.stderr) == (0, "")
    assert toy.processes() == []


@pytest.mark.slow
def test_second_flow_in_a_busy_workspace(toy: Toy, command: Command) -> None:
    first = hang(toy, command, "hang")
    second = command("--quiet")
    assert second.returncode == 1
    assert re.fullmatch(r"error: .* is busy: another flow \(process \d+\).*\n", second.stderr)
    assert first.poll() is None
    finish(toy, first, signal.SIGINT)


@pytest.mark.slow
def test_without_a_server_it_brings_its_own(toy: Toy, lone_command: Command) -> None:
    done = lone_command("--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[1] for line in done.stdout.splitlines()[:6]] == ["ran"] * 6
    assert toy.processes() == []
    toy.tell("train", "fail")
    done = lone_command("--quiet", "--stages", "train")
    assert done.returncode == 1
    assert done.stderr.startswith("error: train: params.yaml: 1 error\n")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), SIGNALS[:3])
def test_its_own_server_does_not_survive_either(
    toy: Toy, lone_command: Command, number: int, status: int
) -> None:
    code, said, _ = finish(toy, hang(toy, lone_command, "hang"), number)
    assert code == status
    assert "Traceback" not in said
    assert said.count("\n") <= 1


@pytest.mark.slow
def test_interrupt_while_the_server_starts(toy: Toy, lone_command: Command) -> None:
    process = lone_command.start("--quiet")
    toy.wait_until(lambda: toy.runs("uvicorn"))
    code, said, _ = finish(toy, process, signal.SIGTERM)
    assert code == 143
    assert "Traceback" not in said
