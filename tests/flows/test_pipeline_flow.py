"""The flow itself, in this process, against a real server."""

from __future__ import annotations

import inspect
import json
import logging
import typing
from pathlib import Path
from typing import Any

import psutil
import pytest
from toy_repository import Toy

from flows.dvc_stage import run_guarded
from flows.flow_errors import FlowError, StageFailed
from flows.progress import OnLine
from flows.workspace_lock import workspace_lock
from tasks.layout import STAGES


@pytest.fixture
def server(prefect_server: str) -> Any:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


def run_id(state: Any) -> Any:
    return state.state_details.flow_run_id


def artifacts(server: Any, flow_run_id: Any) -> dict[str, Any]:
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    found = server.read_artifacts(artifact_filter=only)
    return {artifact.key: artifact.data for artifact in found}


def task_states(server: Any, toy: Toy, flow_run_id: Any, number: int) -> dict[str, str]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    states: dict[str, str] = {}

    def recorded() -> bool:
        # Prefect records task states a moment later than it has them.
        runs = server.read_task_runs(flow_run_filter=only)
        states.update({run.name: run.state_name for run in runs})
        return len(states) == number and not {"Running", "Pending"} & set(states.values())

    toy.wait_until(recorded)
    return states


def logged(server: Any, toy: Toy, flow_run_id: Any, last: str) -> list[str]:
    """What a flow run has logged, once a message with some text is there."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import LogSort

    for handler in logging.getLogger("prefect.flow_runs").handlers:
        handler.flush()
    only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
    messages: list[str] = []

    def arrived() -> bool:
        # Flushing gives up after a while, and the logs are sent by another thread.
        logs = server.read_logs(only, sort=LogSort.TIMESTAMP_ASC, limit=200)
        messages[:] = [log.message for log in logs]
        return any(last in message for message in messages)

    toy.wait_until(arrived)
    return messages


@pytest.mark.slow
def test_a_whole_run_is_visible(toy: Toy, server: Any) -> None:
    from flows.pipeline import pipeline

    state = pipeline(str(toy.root), return_state=True)
    rows = state.result()
    assert [(row["stage"], row["outcome"]) for row in rows] == [(name, "ran") for name in STAGES]
    assert rows[2]["headline"] == "best epoch 9 of 10, val/map 0.712"
    expected = dict.fromkeys(STAGES, "Completed")
    assert task_states(server, toy, run_id(state), 6) == expected
    found = artifacts(server, run_id(state))
    table = json.loads(found["pipeline-outcomes"])
    assert [row["outcome"] for row in table] == ["ran"] * 6
    assert "## evaluate" in found["pipeline-metrics"]
    assert "| map_50 | 0.8 |" in found["pipeline-metrics"]
    messages = logged(server, toy, run_id(state), "working on report")
    assert "working on train" in messages
    # The stages' lines stand between the lines of the flow, in their order.
    assert messages.index("working on validate") < messages.index("working on report")

    rows = pipeline(str(toy.root), stages=["train", "validate"])
    assert [(row["stage"], row["outcome"]) for row in rows] == [
        ("validate", "skipped"),
        ("train", "skipped"),
    ]
    # One question to DVC does for those before the first with something to do.
    (toy.root / "out" / "export.txt").unlink()
    rows = pipeline(str(toy.root))
    assert [row["outcome"] for row in rows] == [*["skipped"] * 4, "restored", "skipped"]
    assert pipeline(str(toy.root), force=True, stages=["train"])[0]["outcome"] == "ran"
    assert pipeline(str(toy.root), stages=[]) == []


def test_a_failing_stage_fails_the_flow(toy: Toy, server: Any) -> None:
    from flows.pipeline import pipeline

    toy.tell("preprocess", "fail")
    state = pipeline(str(toy.root), return_state=True)
    assert state.is_failed()
    said = "preprocess: params.yaml: 1 error\n  train.lr = -1: must be above 0"
    assert state.message == said
    assert task_states(server, toy, run_id(state), 2) == {
        "validate": "Completed",
        "preprocess": "Failed",
    }
    found = artifacts(server, run_id(state))
    table = json.loads(found["pipeline-outcomes"])
    outcomes = ["ran", "failed", *["not reached"] * 4]
    assert [row["outcome"] for row in table] == outcomes
    assert "must be above 0" in found["pipeline-metrics"]
    messages = logged(server, toy, run_id(state), "Finished in state Failed")
    assert not any("Traceback" in message for message in messages)
    with pytest.raises(StageFailed, match="must be above 0"):
        pipeline(str(toy.root))


def test_a_busy_workspace_fails_the_flow(toy: Toy, server: Any) -> None:
    from flows.pipeline import pipeline

    with workspace_lock(toy.root), pytest.raises(FlowError, match="is busy"):
        pipeline(str(toy.root))


def test_wrong_parameters_are_refused(toy: Toy, server: Any) -> None:
    from prefect.exceptions import ParameterTypeError

    from flows.pipeline import pipeline

    with pytest.raises(ParameterTypeError, match="stages"):
        pipeline(str(toy.root), stages=["trian"])


@pytest.mark.parametrize("given", [None, "mine"])
def test_stages_know_their_wandb_group(
    toy: Toy, server: Any, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    from flows.pipeline import pipeline

    stage = (toy.root / "stage.py").read_text()
    show = '\nimport os\nprint("group", os.environ["WANDB_RUN_GROUP"])\n'
    (toy.root / "stage.py").write_text(stage + show)
    if given:
        monkeypatch.setenv("WANDB_RUN_GROUP", given)
    state = pipeline(str(toy.root), stages=["validate"], return_state=True)
    name = server.read_flow_run(run_id(state)).name
    logged(server, toy, run_id(state), f"group {given or name}")


def test_stage_names_are_those_of_the_layout() -> None:
    from flows.pipeline import StageName

    assert typing.get_args(StageName) == STAGES


def test_entrypoint_for_deployments(prefect_server: str) -> None:
    from prefect.flows import load_flow_from_entrypoint

    from flows.pipeline import pipeline

    assert inspect.getsourcefile(pipeline.fn)
    assert load_flow_from_entrypoint("flows.pipeline.pipeline").name == "pipeline"


@pytest.mark.parametrize("figures", ['{"other": 1, "b": "x|y"}', "[1", None])
def test_figures_that_do_not_fit_fail_nothing(toy: Toy, figures: str | None) -> None:
    from flows.pipeline import StageRow, _headline, metrics_markdown

    if figures is not None:
        (toy.root / "metrics").mkdir()
        (toy.root / "metrics" / "train.json").write_text(figures)
    text = _headline("train", toy.root)
    assert text == ("other 1, b x|y" if figures and "other" in figures else "")
    page = metrics_markdown([StageRow("train", "ran", 1.0, text)], toy.root)
    assert page.startswith("## train\n\nran")


def test_a_step_that_takes_too_long_is_ended(tmp_path: Path, prefect_server: str) -> None:
    from prefect import flow

    from flows.pipeline import done

    def work(on_line: OnLine) -> tuple[str, str]:
        command = ["sh", "-c", "echo $$ > pid; sleep 300"]
        return str(run_guarded(command, tmp_path, on_line=on_line)), "never said"

    @flow(name="limited")
    def limited() -> None:
        with pytest.raises(StageFailed, match=r"^train: not done after 0\.05 minutes$"):
            done("train", work, minutes=0.05)

    limited()
    pid = tmp_path / "pid"
    written = pid.read_text() if pid.exists() else ""  # it may have been ended before
    assert not written or not psutil.pid_exists(int(written))


def test_a_step_that_succeeds_late_is_done(prefect_server: str) -> None:
    from prefect import flow

    from flows.pipeline import done

    @flow(name="late")
    def late() -> str:
        return done("train", lambda on_line: ("ran", "all of it"), minutes=0.0).outcome

    assert late() == "ran"
