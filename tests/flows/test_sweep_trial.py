"""A trial leaves figures behind, and nothing else: no worktree, no change of the user's files."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from sweep_repository import make_sweep_toy
from toy_repository import Toy

from components.errors import ParamsError, WriteError
from flows.dvc_stage import run_stage
from flows.flow_errors import FlowError
from flows.lease import Lease, LeaseWatch
from flows.sweep_plan import plan
from flows.sweep_table import apply
from flows.sweep_trial import Prepared, Row, Trial, make_site, prepare, run_trial, trial_key
from flows.worktree import remove_left_over, worktree
from tasks.repository import git


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "runs"
    path.touch()
    monkeypatch.setenv("TOY_RUNS", str(path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return path


@pytest.fixture
def sweep_toy(tmp_path: Path, runs: Path) -> Iterator[Toy]:
    toy = make_sweep_toy((tmp_path / "repo").resolve())
    yield toy
    for process in toy.processes():
        process.kill()


def state(root: Path) -> tuple[str, ...]:
    """All of a repository that is the user's."""
    files = sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] not in (".git", ".dvc", "reports")
    )
    return (
        *(f"{path} {path.read_text()}" for path in files),
        git(root, "status", "--porcelain"),
        git(root, "branch", "--all", "--verbose"),
        git(root, "worktree", "list"),
        git(root, "stash", "list"),
        (root / ".git" / "index").read_bytes().hex(),
    )


def test_done_then_known_then_restored(
    sweep_toy: Toy, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    root = sweep_toy.root
    before = state(root)
    trials = plan(root, {"train.lr": [0.125, 0.5, 0.375]}, None, 0)
    with Lease(root / ".dvc" / "tmp" / "sweep" / "lease") as lease:
        site = make_site(root, lease.token, 3)
        prepared = prepare(trials[0], site, print)
        low, failed, high = (run_trial(trial, prepared, site, print) for trial in trials)
        assert [row.status for row in (low, failed, high)] == ["done", "failed", "done"]
        assert (low.score, high.score) == (0.125, 0.375)
        assert low.figures["gpus"] == high.figures["gpus"] == "6", "one after the other"
        assert low.figures["evaluate"] == {"split": "test", "accuracy": 0.875}
        assert failed.reason == "train: nothing was learnt"
        did = ["validate 0.125", "preprocess 0.125"]
        did += ["train 0.125", "evaluate 0.125", "train 0.5", "train 0.375", "evaluate 0.375"]
        assert runs.read_text().splitlines() == did
        assert state(root) == before
        assert list(site.trees.iterdir()) == []
        # An interrupted training could go on; one that is done has nothing to go on with.
        assert {path.name for path in site.resume.glob("trial-*")} == {f"trial-{failed.key}"}
        again = run_trial(trials[2], prepared, site, print)
        assert again == Row(3, {"train.lr": 0.375}, "known", high.key, high.seconds, high.figures)
        assert runs.read_text().splitlines() == did
    apply(high, root / "params.yaml")
    for stage in ("validate", "preprocess", "train"):
        assert run_stage(stage, root, on_line=print).outcome == "restored"
    assert (root / "out" / "train" / "packed.bin").read_text() == "0.375"


def test_key_follows_data_code_and_parameters(sweep_toy: Toy) -> None:
    root = sweep_toy.root
    first, other = plan(root, {"train.lr": [0.5, 0.625]}, None, 0)

    def key(trial: Trial, data: str) -> str:
        return trial_key(trial, Prepared("", data), make_site(root, "", 0))

    def commit(name: str, text: str) -> None:
        (root / name).write_text(text)
        git(root, "add", name)
        git(root, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", name)

    keys = [key(first, "one"), key(first, "two"), key(other, "one")]
    commit("README", "no dependency of a stage")
    assert key(first, "one") == keys[0]
    commit("stage.py", "import nothing")
    keys.append(key(first, "one"))
    assert len(set(keys)) == 4


def test_data_that_cannot_be_prepared_fails_its_trials(sweep_toy: Toy) -> None:
    root = sweep_toy.root
    (root / "data" / "raw" / "image.txt").unlink()
    trial = plan(root, {"train.lr": [0.125]}, None, 0)[0]
    with Lease(root / ".dvc" / "tmp" / "sweep" / "lease") as lease:
        site = make_site(root, lease.token, 0)
        row = run_trial(trial, prepare(trial, site, print), site, print)
    assert row.status == "failed"
    assert "no data" in row.reason


def test_the_end_of_the_lease_ends_a_trial(sweep_toy: Toy) -> None:
    root = sweep_toy.root
    trial = plan(root, {"train.lr": [0.25]}, None, 0)[0]
    lease = Lease(root / ".dvc" / "tmp" / "sweep" / "lease")
    hanging = threading.Event()

    def on_line(line: str) -> None:
        if line == "hanging":
            hanging.set()

    rows: list[Row] = []
    with lease:
        site = make_site(root, lease.token, 0)
        prepared = prepare(trial, site, print)
        worker = threading.Thread(
            target=lambda: rows.append(run_trial(trial, prepared, site, on_line))
        )
        worker.start()
        assert hanging.wait(600)
    worker.join(600)
    assert [row.status for row in rows] == ["stopped"]
    assert sweep_toy.processes() == []
    assert list(site.trees.iterdir()) == []
    # What a checkpoint is for.
    kept = site.resume / f"trial-{rows[0].key}" / "checkpoint"
    assert kept.read_text() == "half done"
    # A worker that comes to a trial after the end does not begin.
    assert run_trial(trial, prepared, site, on_line).status == "stopped"
    # Nor one whose data was being prepared then.
    assert run_trial(trial, prepare(trial, site, print), site, on_line).status == "stopped"


def test_data_outside_of_the_repository(tmp_path: Path, runs: Path) -> None:
    root = make_sweep_toy((tmp_path / "a" / "repo").resolve(), "../../far/raw").root
    trial = plan(root, {"train.lr": [0.125]}, None, 0)[0]
    with Lease(root / ".dvc" / "tmp" / "sweep" / "lease") as lease:
        site = make_site(root, lease.token, 0)
        assert prepare(trial, site, print).failure == ""
    assert list(site.trees.iterdir()) == []
    assert (tmp_path / "far" / "raw" / "image.txt").read_text() == "an image"


def test_what_a_killed_process_left_is_removed(sweep_toy: Toy) -> None:
    root = sweep_toy.root
    folder = root / ".dvc" / "tmp" / "trees" / "trial-x"
    commit, cache = git(root, "rev-parse", "HEAD"), root / ".dvc" / "cache"
    kept = root / ".dvc" / "tmp" / "kept" / "trial-x"
    child = os.fork()
    if child == 0:
        with worktree(root, folder, commit, cache, ["data/raw"], kept) as (tree, _):
            (tree / ".resume").mkdir()
            (tree / ".resume" / "checkpoint").write_text("half done")
            os._exit(0)
    os.waitpid(child, 0)
    assert "trial-x" in git(root, "worktree", "list")
    remove_left_over(root, folder, kept)
    assert (kept / "checkpoint").read_text() == "half done"
    assert "trial-x" not in git(root, "worktree", "list")
    assert (root / "data" / "raw" / "image.txt").exists()
    with worktree(root, folder, commit, cache, ["data/raw"], kept) as (tree, _):
        assert (tree / ".resume" / "checkpoint").exists()
        assert (tree / "data" / "raw").readlink() == root / "data" / "raw"
        with pytest.raises(FlowError, match="is busy"):
            remove_left_over(root, folder, kept)


def test_worktrees_are_told_apart_by_place(sweep_toy: Toy, tmp_path: Path) -> None:
    root = sweep_toy.root
    commit, cache = git(root, "rev-parse", "HEAD"), root / ".dvc" / "cache"

    def made(place: str) -> AbstractContextManager[tuple[Path, int]]:
        return worktree(root, tmp_path / place / "trial-x", commit, cache, [], tmp_path / "kept")

    # As in a sweep in another checkout of this repository.
    with made("one") as (first, _):
        with made("two"):
            pass
        assert git(first, "rev-parse", "HEAD") == commit
        assert len(git(root, "worktree", "list").splitlines()) == 2
        shutil.rmtree(tmp_path / "one")
    # One that was removed by hand while git knew of it.
    git(root, "worktree", "add", "--quiet", "--detach", str(tmp_path / "one" / "trial-x"), commit)
    shutil.rmtree(tmp_path / "one")
    with made("one"):
        pass
    assert len(git(root, "worktree", "list").splitlines()) == 1


def test_no_commit_is_told(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    with pytest.raises(FlowError, match="not the root of a git repository with a commit"):
        make_site(tmp_path, "", 0)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"train.lrr": [1]}, r"the trial with train.lrr: 1: .*train\.lrr: unknown key; .*lr"),
        ({"train.lr": [0.1, -1]}, r"the trial with train.lr: -1: (?s:.)*train\.lr = -1: "),
        ({"train.lr.x": [1]}, r"train\.lr\.x: train\.lr is no section"),
    ],
)
def test_faulty_trials_are_told_before_any_runs(
    sweep_toy: Toy, parameters: dict[str, list[object]], said: str
) -> None:
    with pytest.raises(ParamsError, match=f"(?s){said}"):
        plan(sweep_toy.root, parameters, None, 0)


def test_other_words_for_the_same_are_one_trial(sweep_toy: Toy) -> None:
    trials = plan(sweep_toy.root, {"train.recipe": ["finetune", None, "two_phase"]}, None, 0)
    assert [trial.number for trial in trials] == [1, 2]


def test_lease_ends_with_its_owner_or_for_another(tmp_path: Path) -> None:
    path = tmp_path / "lease"

    def ended(token: str) -> bool:
        return LeaseWatch(path, token).ended()

    assert ended("nobody")
    with Lease(path) as first:
        assert not ended(first.token)
        with Lease(path) as second:
            assert ended(first.token)
            assert not ended(second.token)
        assert ended(second.token)
    assert not path.exists()


def test_lease_that_nobody_renews_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.lease.LOOK_SECONDS", 0)
    monkeypatch.setattr("flows.lease.PATIENCE_LOOKS", 0)
    path = tmp_path / "lease"
    path.write_text("token 1")
    watch = LeaseWatch(path, "token")
    assert [watch.ended(), watch.ended()] == [False, True]
    path.write_text("token 2")
    assert watch.ended(), "an end is for good"


def test_a_lease_that_cannot_be_read_for_a_while_is_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.lease.LOOK_SECONDS", 0)
    path = tmp_path / "lease"
    with Lease(path) as lease:
        watch = LeaseWatch(path, lease.token)
        assert not watch.ended()
        path.unlink()
        path.mkdir()  # reading it is an error, though not that of a missing file
        assert not watch.ended()
        path.rmdir()
        assert watch.ended()


def test_a_lease_that_cannot_be_renewed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = threading.Event()
    texts: list[str] = []

    def write(path: Path, text: str) -> None:
        texts.append(text)
        if len(texts) == 2:
            raise WriteError("no space is left")
        if len(texts) == 3:
            written.set()

    monkeypatch.setattr("flows.lease.write_text", write)
    monkeypatch.setattr("flows.lease.RENEW_SECONDS", 0.01)
    with Lease(tmp_path / "lease"):
        assert written.wait(600)
