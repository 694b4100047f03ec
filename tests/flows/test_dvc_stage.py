from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from pathlib import Path

import pytest
from toy_repository import Toy

from components.errors import TimmflowError
from flows.dvc_stage import StageOutput, StageResult, run_stage, unchanged_stages
from flows.flow_errors import StageFailed
from tasks.repository import dvc_environment


def run(toy: Toy, stage: str, **kwargs: bool) -> tuple[StageResult, list[str]]:
    lines: list[str] = []
    return run_stage(stage, toy.root, on_line=lines.append, **kwargs), lines


def test_ran_then_skipped_then_restored_then_forced(toy: Toy) -> None:
    result, lines = run(toy, "train")
    assert result.outcome == "ran"
    assert "working on train" in lines
    assert run(toy, "train")[0].outcome == "skipped"
    (toy.root / "out" / "train.txt").unlink()
    result, lines = run(toy, "train")
    assert result.outcome == "restored"
    assert "working on train" not in lines
    assert (toy.root / "out" / "train.txt").exists()
    assert run(toy, "train", force=True)[0].outcome == "ran"
    assert toy.processes() == []


def test_only_the_named_stage_runs(toy: Toy) -> None:
    run(toy, "evaluate")
    assert [path.name for path in (toy.root / "out").glob("*.txt")] == ["evaluate.txt"]


def test_stages_with_nothing_to_do(toy: Toy) -> None:
    asked = ("validate", "train", "evaluate")
    assert unchanged_stages(asked, toy.root) == set()  # nothing has run yet
    for stage in asked:
        run(toy, stage)
    assert unchanged_stages(asked, toy.root) == set(asked)
    toy.tell("validate", "fail")
    (toy.root / "out" / "train.txt").unlink()
    assert unchanged_stages(asked, toy.root) == {"evaluate"}
    (toy.root / "dvc.lock").write_text("stages: [")
    assert unchanged_stages(asked, toy.root) == set()


def test_of_no_stages_dvc_is_asked_nothing(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("flows.dvc_stage.run_guarded", lambda *words, **_: asked.append(words))
    unchanged_stages([], toy.root)
    assert asked == []
    unchanged_stages(["train"], toy.root)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("mode", "stage", "message"),
    [
        ("fail", "train", "train: params.yaml: 1 error\n  train.lr = -1: must be above 0"),
        ("crash", "train", "RuntimeError: a defect"),
        ("ok", "trian", "trian: Stage 'trian' not found inside 'dvc.yaml' file"),
    ],
)
def test_failure_says_what_the_stage_said(toy: Toy, mode: str, stage: str, message: str) -> None:
    toy.tell("train", mode)
    with pytest.raises(StageFailed) as caught:
        run(toy, stage)
    assert isinstance(caught.value, TimmflowError)
    if mode == "crash":
        assert str(caught.value).endswith(message)
        assert "Traceback" in str(caught.value)
        assert "failed to reproduce" not in str(caught.value)
    else:
        assert str(caught.value) == message


def test_broken_dvc_yaml_is_told(toy: Toy) -> None:
    (toy.root / "dvc.yaml").write_text("stages: [\n")
    with pytest.raises(StageFailed, match=r"(?s)dvc\.yaml' is invalid"):
        run(toy, "train")


def test_a_failure_leaves_nothing_that_blocks(toy: Toy) -> None:
    toy.tell("train", "fail")
    with pytest.raises(StageFailed):
        run(toy, "train")
    toy.tell("train", "ok")
    assert run(toy, "train")[0].outcome == "ran"


def test_interrupt_ends_every_process_first(toy: Toy) -> None:
    toy.tell("train", "hang stubborn")

    def interrupt(line: str) -> None:
        if line == "hanging":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage("train", toy.root, on_line=interrupt)
    assert toy.processes() == []


def test_a_worker_left_behind_is_ended(toy: Toy) -> None:
    toy.tell("train", "leave")
    assert run(toy, "train")[0].outcome == "ran"
    assert toy.processes() == []


def test_lines_come_while_the_stage_runs(toy: Toy) -> None:
    toy.tell("train", "hang")
    seen = threading.Event()

    def on_line(line: str) -> None:
        if line == "hanging":
            seen.set()
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_stage("train", toy.root, on_line=on_line)
    assert seen.is_set()


def test_python_is_this_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    env = dvc_environment({"WANDB_RUN_GROUP": "a"})
    assert env["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}/usr/bin"
    assert env["WANDB_RUN_GROUP"] == "a"
    assert env["DVC_NO_ANALYTICS"] == "1"


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        (["Running stage 'train':", "> python -m tasks.train"], "ran"),
        (["Stage 'train' is cached - skipping run, checking out outputs"], "restored"),
        (["Stage 'train' didn't change, skipping"], "skipped"),
        # A stage may print anything, also the name of another stage.
        (["Stage 'train' didn't change, skipping", "Running stage 'evaluate':"], "skipped"),
    ],
)
def test_outcome_from_lines(lines: list[str], outcome: str) -> None:
    output = StageOutput("train")
    for line in lines:
        output.add(line)
    assert output.outcome == outcome


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        # Only the last message counts: the stage went on after the first.
        (["error: one", "going on", "", "error: train: two", "ERROR: failed to reproduce"], "two"),
        # An empty line ends a message; what follows is other output.
        (["error: train: one", "", "bye"], "one"),
        (["ERROR: no disk", "more of it"], "no disk\nmore of it"),
        ([], "dvc ended with status 3"),
    ],
)
def test_reason_from_lines(lines: list[str], reason: str) -> None:
    output = StageOutput("train")
    for line in lines:
        output.add(line)
    assert output.reason(3) == reason


def test_of_git_the_reason_is_what_the_remote_has_said() -> None:
    output = StageOutput("git push", program="git")
    lines = [
        "remote: only maintainers",
        " ! [remote rejected] retrain -> retrain (hook declined)",
        "error: failed to push some refs to '../origin'",
    ]
    for line in (*lines, *(f" * [new tag]  model@v1.{n}.0 -> model@v1.{n}.0" for n in range(20))):
        output.add(line)
    assert output.reason(1).splitlines()[1:] == [f"  {line}" for line in lines]


def test_stage_failed_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(StageFailed("train", "no data", 1.5)))
    assert (error.stage, error.reason, error.seconds) == ("train", "no data", 1.5)
