"""What `python -m flows.clean` removes, and what it must not."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from retrain_repository import RetrainToy, picture, retrained

from components.tracking.plan import RunPlan, at_work, mark_done, mark_synced, write_plan
from flows.clean import items, main
from flows.retrain_run import locked
from flows.retrain_site import write_record
from tasks.repository import dvc

DAY = 86400


@pytest.fixture
def toy(first: RetrainToy, tmp_path: Path) -> RetrainToy:
    toy = first.copied(tmp_path)
    return toy


def made(folder: Path, days: float) -> Path:
    """A folder with a file, so many days old."""
    folder.mkdir(parents=True)
    (folder / "file").write_text("x" * 1000)
    for path in (folder / "file", folder):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return folder


def sent(run: Path, days: float) -> Path:
    """A W&B run as wandb's own command leaves it."""
    (run / "run.wandb.synced").touch()
    for path in (run / "run.wandb.synced", run):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return run


def everything(root: Path) -> set[Path]:
    """Paths of all files, but for locks and what DVC and git keep for themselves."""
    found = {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
    named = {path: path.as_posix() for path in found}
    return {
        path
        for path, name in named.items()
        if not name.startswith(".git/")
        and (".dvc/tmp/" not in name or name.startswith(".dvc/tmp/retrain/resume/"))
    }


def needed(toy: RetrainToy, revision: str) -> set[Path]:
    """Files of DVC's cache that a revision names."""
    lock = yaml.safe_load(toy.git("show", f"{revision}:dvc.lock"))
    outs = [out for stage in lock["stages"].values() for out in stage["outs"]]
    outs += yaml.safe_load(toy.git("show", f"{revision}:data/raw.dvc"))["outs"]
    named = [out["md5"] for out in outs if not out["path"].startswith("metrics/")]
    return {Path(".dvc/cache/files/md5", md5[:2], md5[2:]) for md5 in named}


@pytest.mark.slow
def test_only_what_nothing_needs_goes(
    toy: RetrainToy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    before = everything(toy.root)
    toy.commit("0.3")
    assert retrained(toy)[0]["outcome"] == "refused"
    refused = everything(toy.root) - before
    assert any(path.parts[:2] == (".dvc", "cache") for path in refused)
    retrain = toy.root / ".dvc" / "tmp" / "retrain"
    old = [
        made(toy.root / ".resume" / "old", 31),
        made(retrain / "resume" / "old", 31),
        made(toy.root / "wandb" / "offline-run-1-sent", 31),
    ]
    sent(old[2], 31)
    young = [
        made(toy.root / ".resume" / "young", 29),
        made(toy.root / "wandb" / "offline-run-2-waits", 400),
    ]
    tree = retrain / "tree" / "timmflow-retrain" / "timmflow-retrain"
    toy.git("worktree", "add", "-q", "--detach", str(tree), "retrain")
    (toy.root / "notes.txt").write_text("of the user's")
    there = everything(toy.root)
    needs = needed(toy, "model@v1.0.0") | needed(toy, "retrain")
    assert needs <= there

    words = ["--root", str(toy.root), "--cache"]
    assert main(words) == 0
    said = capsys.readouterr().out
    for word in ("worktree", ".resume/old", "W&B, sent", "objects", "--yes does it"):
        assert word in said
    assert "young" not in said
    assert everything(toy.root) == there

    assert main([*words, "--yes"]) == 0
    after = everything(toy.root)
    assert needs <= after
    assert [path for path in old if path.exists()] == []
    assert all(path.exists() for path in young)
    assert (toy.root / "notes.txt").exists()
    assert toy.traces() == []
    gone = there - after
    # What a run was refused with, and metrics, which are in git.
    cache = {path for path in gone if path.parts[:2] == (".dvc", "cache")}
    assert cache
    assert not cache & needs
    capsys.readouterr()
    assert main([*words, "--yes"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"
    assert retrained(toy)[0]["outcome"] == "nothing new"


def test_of_wandb_goes_what_is_sent(tmp_path: Path) -> None:
    home = tmp_path / "wandb"
    for name in ("half", "done", "kept"):
        run = made(home / f"offline-run-{name}", 40)
        write_plan(run, RunPlan(name, "timmflow", None, "retrain", "group"))
        # Of a repository that has been moved: wandb's link names what is not there any more.
        (run / "debug-core.log").symlink_to("/nowhere/core-debug.log")
        if name != "kept":
            mark_synced(run)
            (run / "run.wandb.synced").touch()
        if name == "done":
            mark_done(run, "")
        for path in (*run.iterdir(), run):
            os.utime(path, (time.time() - 40 * DAY,) * 2, follow_symlinks=False)
    sent(made(home / "offline-run-young", 20), 20)
    cached = made(home / "cache" / "artifacts" / "obj", 31) / "file"
    (home / "logs").mkdir()
    (home / "logs" / "young.log").touch()

    def gone(unsent_days: float) -> list[str]:
        found = list(items(tmp_path, 30, unsent_days, cache=False))
        for item in found:
            item.remove()
        return [item.what.rpartition(", ")[0] for item in found]

    with at_work(made(home / "offline-run-working", 400)):
        # What needs the server, lineage and report, may be left for long.
        assert gone(math.inf) == ["W&B, sent   wandb/offline-run-done", "W&B's cache 1 files"]
        assert gone(41) == []
        both = [f"W&B, unsent wandb/offline-run-{name}" for name in ("half", "kept")]
        assert gone(39) == both
    left = sorted(path.name for path in home.rglob("*") if path.is_dir() or path == cached)
    assert left == ["artifacts", "cache", "logs", "obj", "offline-run-working", "offline-run-young"]


@pytest.mark.slow
def test_without_a_remote_older_data_stays(
    toy: RetrainToy, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in (41, 42):
        picture(toy.root / "data" / "raw" / "no" / "0.png", size, 0)
        dvc(toy.root, "add", "-q", "data/raw")
        toy.git("commit", "-qm", f"{size}", "--", "data/raw.dvc")
    [entry] = yaml.safe_load(toy.git("show", "HEAD~:data/raw.dvc"))["outs"]
    older = toy.root / ".dvc/cache/files/md5" / entry["md5"][:2] / entry["md5"][2:]

    assert main(["--root", str(toy.root), "--yes"]) == 0
    assert older.exists()
    assert "DVC's cache is left alone: there is no remote" in capsys.readouterr().out
    dvc(toy.root, "remote", "add", "-q", "-d", "store", "../store")
    assert main(["--root", str(toy.root)]) == 0
    said = capsys.readouterr().out
    assert "objects" in said and "left alone" not in said
    assert main(["--root", str(toy.root), "--yes"]) == 0
    assert not older.exists()


def test_it_waits_for_others(toy: RetrainToy, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(toy.root):
        assert main(["--root", str(toy.root), "--yes"]) == 1
    assert "another retraining" in capsys.readouterr().err
    write_record(toy.root, "decided", {"commit": "unknown to any branch"})
    assert main(["--root", str(toy.root), "--yes"]) == 1
    assert "decided on and not in place yet" in capsys.readouterr().err


def test_a_shared_cache_is_left_alone(
    toy: RetrainToy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = tmp_path / "shared"
    made(shared / "files" / "md5" / "aa", 400)
    (toy.root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {shared}\n")
    assert main(["--root", str(toy.root), "--cache", "--yes"]) == 0
    assert (shared / "files" / "md5" / "aa" / "file").exists()


def test_history_of_this_repository_alone(
    toy: RetrainToy, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefect import flow
    from prefect.artifacts import create_markdown_artifact
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.states import Completed, Running

    @flow(name="retrain")
    def stand_in(root: str) -> None:
        create_markdown_artifact("text", key="stand-in")

    def run(root: Path | str, done: bool = True, tags: list[str] | None = None) -> Any:
        state = Completed() if done else Running()
        return client.create_flow_run(
            stand_in, parameters={"root": str(root)}, state=state, tags=tags or []
        ).id

    with get_client(sync_client=True) as client:
        stand_in(str(toy.root))
        old = [run(toy.root), run(".", tags=["timmflow.deployment.mine"])]
        kept = [
            run("/elsewhere"),
            run(toy.root, done=False),
            run(".", tags=["timmflow.deployment.other"]),
        ]
        words = ["--root", str(toy.root), "--name", "mine", "--days"]
        assert main([*words, "1"]) == 0
        assert "history" not in capsys.readouterr().out
        assert main([*words, "0"]) == 0
        assert "3 runs at" in capsys.readouterr().out
        assert main([*words, "0", "--yes"]) == 0
        ids = FlowRunFilterId(any_=[*old, *kept])
        left = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=ids))
        assert {found.id for found in left} == set(kept)
        assert not [a for a in client.read_artifacts() if a.key == "stand-in"]
