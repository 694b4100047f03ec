"""`python -m flows.sweep` as a person uses it: a real process, real signals, every engine."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from sweep_repository import make_sweep_toy
from toy_repository import Toy

from tasks.repository import git


@pytest.fixture
def sweep_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    monkeypatch.setenv("TOY_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    toy = make_sweep_toy((tmp_path / "repo").resolve())
    yield toy
    for process in toy.processes():
        process.kill()


def start(toy: Toy, server: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.sweep", *args],
        cwd=toy.root,
        env={**os.environ, "PREFECT_API_URL": server},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(toy: Toy, server: str, *args: str) -> tuple[int, str, str]:
    with start(toy, server, *args) as process:
        output, errors = process.communicate(timeout=600)
    return process.returncode, output, errors


def trees(toy: Toy) -> list[Path]:
    return list((toy.root / ".dvc" / "tmp" / "sweep" / "trees").glob("*"))


def table(toy: Toy) -> list[dict[str, str]]:
    with (toy.root / "reports" / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_help_and_list_need_no_prefect(sweep_toy: Toy) -> None:
    code = """
import runpy, sys
sys.argv = ["flows.sweep", *sys.argv[1:]]
try:
    runpy.run_module("flows.sweep", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
assert "prefect" not in sys.modules
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", code, *args], cwd=sweep_toy.root, capture_output=True, text=True
        )
        for args in (["--help"], ["--list", "--set", "train.lr=1e-3,0.5"])
    ]
    assert [done.stderr for done in said] == ["", ""]
    assert "--workers" in said[0].stdout
    assert said[1].stdout == "1 train.lr: 0.001\n2 train.lr: 0.5\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--set", "train.lr=-1"], "train.lr = -1"),
        (["--set", "train.lr=1", "--workers", "0"], "--workers 0: must be at least 1"),
        (["--set", "train.lr=1", "--address", "tcp://a"], "with --engine dask or ray"),
    ],
)
def test_faults_are_told_before_a_server_is_started(
    sweep_toy: Toy, args: list[str], said: str
) -> None:
    code, output, errors = call(sweep_toy, "http://127.0.0.1:1/api", *args)
    assert (code, output) == (1, "")
    assert said in errors
    assert "Traceback" not in errors


ENGINES = [
    pytest.param(
        engine,
        marks=pytest.mark.skipif(bool(extra) and find_spec(extra) is None, reason=f"no {extra}"),
    )
    for engine, extra in (("local", ""), ("dask", "prefect_dask"), ("ray", "prefect_ray"))
]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_sweep_then_applied(sweep_toy: Toy, prefect_server: str, engine: str) -> None:
    root = sweep_toy.root
    args = ["--set", "train.lr=0.125,0.5,0.375", "--workers", "2", "--engine", engine]
    code, output, errors = call(sweep_toy, prefect_server, *args)
    assert code == 0, errors
    assert "best: trial 3, val/accuracy 0.375" in output
    assert "+  lr: 0.375 " in output
    assert "trial 2 failed: train: nothing was learnt" in errors
    rows = [(row["trial"], row["status"], row["val/accuracy"]) for row in table(sweep_toy)]
    assert rows == [("3", "done", "0.375"), ("1", "done", "0.125"), ("2", "failed", "")]
    assert trees(sweep_toy) == []
    assert git(root, "status", "--porcelain") == " M params.yaml\n?? reports/"
    # The same again, and one more; what was done is not done again.
    runs = Path(os.environ["TOY_RUNS"])
    runs.unlink()
    code, output, errors = call(sweep_toy, prefect_server, *args[:1], "train.lr=0.375", "--apply")
    assert code == 0, errors
    assert [row["status"] for row in table(sweep_toy)] == ["known"]
    assert not runs.exists()
    assert "lr: 0.375 " in (root / "params.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_sweep_leaves_nothing_and_goes_on(
    sweep_toy: Toy, prefect_server: str, number: int, status: int
) -> None:
    args = ["--set", "train.lr=0.125,0.25"]
    with start(sweep_toy, prefect_server, *args) as process:
        runs = Path(os.environ["TOY_RUNS"])

        def hangs() -> bool:
            assert process.poll() is None, process.communicate()
            return runs.exists() and "train 0.25" in runs.read_text()

        sweep_toy.wait_until(hangs)
        process.send_signal(number)
        _, errors = process.communicate(timeout=600)
    assert process.returncode == status
    assert "Traceback" not in errors
    sweep_toy.wait_until(lambda: not sweep_toy.processes())
    if number != signal.SIGKILL:
        assert trees(sweep_toy) == []
    # The next one removes what a killed one left.
    code, _, errors = call(sweep_toy, prefect_server, "--set", "train.lr=0.125,0.375")
    assert code == 0, errors
    assert [row["status"] for row in table(sweep_toy)] == ["done", "known"]
    assert trees(sweep_toy) == []
    assert len(git(sweep_toy.root, "worktree", "list").splitlines()) == 1


def test_code_that_is_not_committed_is_named(sweep_toy: Toy) -> None:
    with (sweep_toy.root / "stage.py").open("a") as file:
        file.write("# a change\n")
    code, _, errors = call(sweep_toy, "http://127.0.0.1:1/api", "--set", "train.lr=0.5")
    assert code == 1
    assert "not committed, so not in the trials: stage.py\n" in errors
    assert "does not answer" in errors
