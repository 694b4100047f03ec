"""`python -m tasks.publish` against a server that accepts, refuses, hangs and drops."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil
import pytest
import wandb
from canaries import CANARIES, TOLD, found_in
from tracked_workspace import inspected, publish, record, run_of, runs
from wandb_stand_in import Mood, StandIn, stand_in

from components.tracking.plan import at_work, is_synced, mark_synced, only_sender, read_plan, unsent
from components.tracking.send import Sent, finish_run, set_aliases, sync_problem
from tasks.model_registry import Version
from tasks.publish import publish as publish_here

STAGES = ("validate", "train", "evaluate", "retrain", "export", "killed")
REPORTS = find_spec("wandb_workspaces") is not None


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recorded").resolve()
    said = record(root, *STAGES, TEST_CONFIG=json.dumps(TOLD), **CANARIES)
    assert found_in(said.encode()) == []
    (run_of(root, "killed") / "timmflow.json").unlink()
    return root


@pytest.fixture
def root(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path.resolve() / "repo", symlinks=True))


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as server:
        yield server


def at_work_in(root: Path) -> list[str]:
    """Processes that are still there."""
    found = psutil.process_iter(["name", "cwd"])
    return [p.info["name"] for p in found if p.info["cwd"] == str(root)]


@pytest.mark.slow
def test_what_is_not_taken_is_sent_later_and_only_once(root: Path, server: StandIn) -> None:
    moods: list[tuple[Mood, int, float, str]] = [
        ("refuse", 0, 100, "user is not logged in"),
        ("hang", 0, 4, "no answer within 4 s"),
        ("drop", 9, 20, ""),  # in the middle: wandb has several words for it
        ("hang", 52, 20, "no answer within 20 s"),  # most is sent by then
    ]
    for mood, after, seconds, said in moods:
        server.be(mood, after)
        status, lines = publish(root, server.url, seconds)
        assert status == 1
        assert "left for the next time: " in lines[-1] and said in lines[-1], lines
        assert at_work_in(root) == []
    server.be("accept")
    status, lines = publish(root, server.url)
    kept = server.kept
    if REPORTS:
        assert (status, unsent(root)) == (0, []), lines
        (run,) = [run for run in runs(root) if read_plan(run) and read_plan(run).review]
        (run / "timmflow.done").unlink()  # as if it had been killed right before
        status, lines = publish(root, server.url)
        assert (status, lines[-1]) == (0, "publish: 1 run sent"), lines
        (view,) = kept.views.values()
        assert view["displayName"] == "Nightly: promote (1)"
        assert {"heading", "markdown-block"} <= {
            b["type"] for b in json.loads(view["spec"])["blocks"]
        }
        assert f"publish: report {server.url}/tester/timmflow/reports/" in lines[0]
    else:
        assert status == 1
        assert " sent, 1 left for the next time: no report: wandb-workspaces" in lines[-1]
    names = {item["id"]: item["collection"] for item in kept.artifacts.values()}
    uses = {run["jobType"]: [names[i] for i in run["uses"]] for run in kept.runs.values()}
    assert uses == {
        "validate": [],
        "train": ["dataset"],
        "evaluate": ["dataset", "weights"],
        "export": ["weights"],
        "retrain": ["dataset", "onnx"],
        "killed": [],
    }
    assert len(kept.runs) == 6  # sent again is not there twice
    found = [item["collection"] for item in kept.artifacts.values() if item["type"] != "run_table"]
    assert sorted(found) == ["dataset", "onnx", "verdict", "weights"]
    assert {item["state"] for item in kept.artifacts.values()} == {"COMMITTED"}
    assert kept.artifact("onnx", "md5-1")["files"] == {"model.onnx": b"content of model.onnx"}
    assert kept.artifact("dataset", "data-1")["metadata"] == {"figure": 0.5}
    assert kept.run("train")["config"]["train"] == {"value": {"lr": 0.01}}
    assert [row["val/map"] for row in kept.run("train")["history"].values()][:2] == [0.1, 0.2]
    assert b"reader" not in b"".join(kept.bodies) and b"part=1" in b"".join(kept.bodies)
    assert found_in(b"\n".join(kept.bodies)) == []
    before = len(kept.requests)
    if REPORTS:
        assert publish(root, server.url) == (0, ["publish: nothing to send"])
        assert len(kept.requests) == before


@pytest.mark.slow
def test_a_run_read_back_has_everything_but_secrets(recorded: Path) -> None:
    for path in (recorded / "wandb").rglob("*"):
        if path.is_file():
            assert found_in(path.read_bytes()) == [], path
    train, evaluate = (inspected(run_of(recorded, stage)) for stage in ("train", "evaluate"))
    assert train["config"]["train"] == {"lr": 0.01}
    assert train["config"]["told"]["hub"] == "https://***@git.example/repo"
    assert train["summary"]["figure"] == 0.5
    assert [row["val/map"] for row in train["history"]] == [0.1, 0.2]
    assert sorted(train["artifacts"]["weights"]["aliases"]) == ["latest", "sha256-1"]
    (table,) = evaluate["artifacts"].values()
    files = {item["path"]: Path(item["local_path"]) for item in table["manifest"]["contents"]}
    assert sum(name.endswith(".png") for name in files) == 1
    (row,) = json.loads(files["worst_mistakes.table.json"].read_text())["data"]
    assert row[1:] == ["a/b.jpg", "two wrong", "why"]
    (false,), (missed,) = row[0]["boxes"]["false"], row[0]["boxes"]["missed"]
    assert false["position"] == {"minX": 0.1, "maxX": 0.5, "minY": 0.2, "maxY": 0.6}
    assert (false["box_caption"], false["scores"]) == ("cat", {"score": 0.75})
    assert "scores" not in missed or not missed["scores"]


def test_copies_of_artifacts_lie_with_their_run(recorded: Path, tmp_path: Path) -> None:
    copies = sorted((run_of(recorded, "export") / "data").rglob("tmp*"))
    assert [file.read_text() for file in copies] == ["content of model.onnx"]
    own = tmp_path / "own"
    record(tmp_path, "export", WANDB_DATA_DIR=str(own))
    assert len(list(own.rglob("tmp*"))) == 1
    assert not (run_of(tmp_path, "export") / "data").exists()


def test_without_account_or_server_nothing_waits(root: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"  # nobody's, and nobody listens
        status, lines = publish(root, url)
    assert status == 1
    assert lines == [lines[0]] and "6 runs left here" in lines[0] and "out of reach" in lines[0]
    status, lines = publish(root, url, WANDB_API_KEY="", NETRC="/none", HOME=str(root))
    assert status == 1
    assert lines == ["publish: 6 runs left here: no W&B account (WANDB_API_KEY, or `wandb login`)"]


class Nothing:
    """A server that has no artifact."""

    default_entity = "tester"

    def artifact(self, path: str) -> None:
        raise wandb.errors.CommError(f"artifact membership {path} not found")


def test_what_a_server_has_lost_is_sent_again(root: Path) -> None:
    run = run_of(root, "train")
    mark_synced(run)
    with pytest.raises(RuntimeError, match="weights:sha256-1 did not arrive"):
        finish_run(Nothing(), run, None, ())
    assert not is_synced(run)


def test_a_run_at_work_is_left_alone(root: Path) -> None:
    first = runs(root)[0]
    assert len(unsent(root)) == 6
    with at_work(first):
        assert first not in unsent(root)
    assert len(unsent(root)) == 6
    new = root / "wandb" / "offline-run-20990101_000000-new"
    new.mkdir()
    assert new not in unsent(root)  # its recorder is about to hold it


def test_one_publish_at_a_time(root: Path) -> None:
    with only_sender(root) as first:
        assert first
        assert publish(root, "http://127.0.0.1:9") == (
            1,
            ["publish: another publish is at work"],
        )


@pytest.mark.parametrize(
    ("said", "status", "problem"),
    [
        ("wandb: [p/r1] Finished syncing x", 0, ""),
        # It calls a run finished of which it has dropped a part.
        ("wandb: ERROR [p/r1] Fatal error\nwandb: [p/r1] Finished syncing x", 0, "Fatal error"),
        ("wandb: ERROR [p/r2] Fatal error\nwandb: [p/r1] Finished syncing x", 0, ""),
        ("wandb: [p/r11] Finished syncing x", None, "no answer within the time"),
        ("wandb: ERROR user is not logged in", 0, "user is not logged in"),
        ("Traceback\nKeyError: 1", 1, "KeyError: 1"),
        ("", 3, "wandb ended with 3"),
    ],
)
def test_what_wandb_says_of_a_run(said: str, status: int | None, problem: str) -> None:
    assert sync_problem("r1", said, status) == problem


class Models:
    """A server with two models, by the alias of their content."""

    default_entity = "tester"

    def __init__(self) -> None:
        self.aliases = {"md5-1": ["latest", "md5-1"], "md5-2": ["md5-2"]}

    def artifact(self, path: str) -> SimpleNamespace:
        content = path.partition(":")[2]
        if path != f"tester/timmflow/onnx:{content}" or content not in self.aliases:
            raise wandb.errors.CommError(f"artifact membership {path} not found")
        item = SimpleNamespace(aliases=list(self.aliases[content]))
        item.save = lambda: self.aliases.update({content: item.aliases})
        return item


def test_aliases_follow_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Models()
    said: list[str] = []

    class Registry:
        """Versions by name: content, stages, retired."""

        now: ClassVar[dict[str, tuple[str, tuple[str, ...], bool]]] = {}

        def __init__(self, root: Path) -> None:
            pass

        def versions(self) -> list[Version]:
            found = self.now.items()
            return [Version(n, md5, "", stages, gone) for n, (md5, stages, gone) in found]

        def model_file(self, commit: str) -> tuple[str, str]:
            return "models/model.onnx", commit

    def send(runs: list[Path], aliases: Any, managed: Any, target: Any, deadline: float) -> Sent:
        job = {"aliases": aliases, "managed": managed, "entity": None, "awaited": []}
        told = set_aliases(server, {**job, "project": target.project})
        return Sent(aliases=told["aliases"], notes=told["notes"])

    monkeypatch.setattr("tasks.model_registry.Registry", Registry)
    monkeypatch.setattr("components.tracking.send.send", send)
    monkeypatch.setattr("tasks.publish.has_account", lambda: True)
    monkeypatch.setattr("tasks.publish.unreachable", lambda: None)
    monkeypatch.setattr("tasks.publish._say", said.append)

    def now(**versions: tuple[str, tuple[str, ...], bool]) -> dict[str, list[str]]:
        Registry.now = versions
        said.clear()
        assert publish_here(tmp_path, 60) == 0
        return server.aliases

    assert now(v1=("1", ("production",), False)) == {
        "md5-1": ["latest", "md5-1", "production", "registry-v1"],
        "md5-2": ["md5-2"],
    }
    now(v1=("1", ("production",), False))
    assert said == ["nothing to send"]
    promoted = now(v1=("1", (), False), v2=("2", ("production", "eu/shop"), False))
    assert promoted == {
        "md5-1": ["latest", "md5-1", "registry-v1"],
        "md5-2": ["eu-shop", "md5-2", "production", "registry-v2"],
    }
    rolled_back = now(v1=("1", ("production",), False), v2=("2", (), True))
    assert rolled_back == {
        "md5-1": ["latest", "md5-1", "production", "registry-v1"],
        "md5-2": ["md5-2"],
    }
    now(v1=("1", ("production",), False), v3=("3", ("staging",), False))
    assert said[0] == "W&B has no model md5-3, which is registry-v3, staging"
    now(v1=("1", ("production",), False), v3=("3", ("staging",), False))
    assert said == ["nothing to send"]  # said once: no run that is left here has it
