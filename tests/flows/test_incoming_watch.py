"""When batches are told of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from retrain_repository import CODE, make_retrain_toy

from flows import incoming_watch
from flows.incoming_watch import Arrivals, emit, resource, watch
from flows.retrain_site import batches_in, incoming_folder

A1, A2, B1 = {"a": "1"}, {"a": "2"}, {"b": "1"}


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        ([(0, {}), (99, {})], [[], []]),
        ([(0, A1), (9, A1), (10, A1), (20, A1)], [[], [], ["a"], []]),
        ([(0, A1), (9, A2), (18, A2), (19, A2)], [[], [], [], ["a"]]),
        ([(0, A1), (10, A1), (11, A2), (21, A2)], [[], ["a"], [], ["a"]]),
        ([(0, A1), (10, A1), (11, A1 | B1), (21, A1 | B1)], [[], ["a"], [], ["b"]]),
        ([(0, A1 | B1), (10, A1 | B1), (11, A1), (21, A1)], [[], ["a", "b"], [], []]),
        ([(0, A1), (10, A1), (11, {}), (12, A1), (22, A1)], [[], ["a"], [], [], []]),
        ([(0, A1), (10, A1), (11, {}), (21, {}), (22, A1), (32, A1)], [[], ["a"], *[[]] * 3, []]),
    ],
    ids=[
        "nothing there",
        "told of once, when it lies still",
        "still being written",
        "written to again",
        "a second one",
        "removal is nothing new",
        "away for a moment",
        "back as it was",
    ],
)
def test_arrivals(looks: list[tuple[float, dict[str, str]]], told: list[list[str]]) -> None:
    arrivals, found = Arrivals(settle=10), []
    for now, batches in looks:
        found.append(arrivals.look(batches, now))
        if found[-1]:
            arrivals.told()
    assert found == told


def test_hidden_names_and_files_are_no_batches(tmp_path: Path) -> None:
    assert batches_in(tmp_path / "absent") == {}
    for name in ("may/yes", ".copying/yes"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "note.txt").touch()
    before = batches_in(tmp_path)
    assert list(before) == ["may"]
    (tmp_path / "may" / "yes" / "1.png").write_text("more")
    assert batches_in(tmp_path) != before


def test_a_folder_may_go_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    incoming, away = tmp_path / "incoming", tmp_path / "away"
    for name in ("one/a", "one/b"):
        (incoming / name).mkdir(parents=True)
        (incoming / name / "1.png").touch()
    before, scandir = batches_in(incoming), os.scandir

    def gone_at_once(path: Path) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "a" and not away.exists():
            Path(path).rename(away)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", gone_at_once)
    found = batches_in(incoming)
    assert list(found) == ["one"]
    assert found != before
    assert found == batches_in(incoming)  # what is beside it was seen


def test_what_no_server_takes_is_told_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "may").mkdir()
    told: list[list[str]] = []

    def tell(names: list[str]) -> None:
        told.append(names)
        if len(told) == 1:
            raise RuntimeError("ConnectError")

    looks = iter([False, False, False, True])
    watch(tmp_path, 0, tell, lambda seconds: next(looks))
    assert told == [["may"], ["may"]]


def test_the_folder_is_of_the_committed_parameters(tmp_path: Path) -> None:
    toy = make_retrain_toy(tmp_path.resolve() / "repo")
    (toy.root / "params.yaml").write_text("a draft")
    assert incoming_folder(toy.root) == toy.root / "data" / "incoming"


def test_an_event_without_a_server_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(RuntimeError, match=r"^ConnectError$"),
    ):
        emit("retrain", Path("/repo"), ["may"])


def test_prefect_yaml_agrees_with_the_code() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.dead_runs import HEARTBEAT_SECONDS
    from flows.retrain import retrain

    [deployment] = yaml.safe_load((CODE / "prefect.yaml").read_text())["deployments"]
    assert f"{retrain.name}/{deployment['name']}" == f"retrain/{incoming_watch.DEPLOYMENT}"
    assert deployment["entrypoint"] == "flows/retrain.py:retrain"
    assert set(deployment["parameters"]) == set(parameter_schema(retrain).properties)
    assert not any(schedule["active"] for schedule in deployment["schedules"])
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    name = resource(incoming_watch.DEPLOYMENT)
    assert deployment["tags"] == [name]
    [trigger] = deployment["triggers"]
    assert trigger["expect"] == [incoming_watch.EVENT]
    assert trigger["match"] == {"prefect.resource.id": name}
    env = deployment["work_pool"]["job_variables"]["env"]
    assert env == {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}
