"""Retraining on several machines: clones of one bare repository, with a remote of DVC's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from retrain_repository import (
    PlainSteps,
    RetrainToy,
    killed_at,
    make_retrain_toy,
    params,
    retrained,
    short,
)

from flows.flow_errors import FlowError
from flows.retrain_run import locked, retrain_here
from tasks.model_registry import Registry

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, scrubbed: None) -> Path:
    """A machine `a` that has retrained, and `b`, a clone from before that."""
    folder = tmp_path_factory.mktemp("team").resolve()
    a = make_retrain_toy(folder / "a")
    params(a, {"git_remote: null": "git_remote: origin"})
    remote = [sys.executable, "-m", "dvc", "remote", "add", "--quiet", "-d", "store", "../store"]
    subprocess.run(remote, cwd=a.root, check=True)
    a.git("commit", "-qm", "remote", "--", ".dvc/config")
    a.git("init", "-q", "--bare", "../origin")
    a.git("remote", "add", "origin", "../origin")
    a.git("push", "-q", "origin", "main")
    a.git("clone", "-q", "--branch", "main", "../origin", "../b")
    b = RetrainToy(folder / "b")
    for name, value in (
        ("remote.origin.url", "../origin"),
        ("user.name", "t"),
        ("user.email", "t"),
    ):
        b.git("config", name, value)
    assert retrained(a)[0]["version"] == "v1.0.0"
    return folder


@pytest.fixture
def team(first: Path, tmp_path: Path) -> tuple[RetrainToy, RetrainToy]:
    shutil.copytree(first, tmp_path / "team", symlinks=True)
    a, b = (RetrainToy(tmp_path.resolve() / "team" / name) for name in "ab")
    a.git("reset", "-q", "--hard")
    b.git("reset", "-q", "--hard")
    return a, b


def shared(toy: RetrainToy) -> dict[str, str]:
    """What the remote has, by name."""
    lines = toy.git("ls-remote", "origin", "refs/heads/retrain", "refs/tags/model*").splitlines()
    return {name: commit for commit, name in map(str.split, lines)}


def here(toy: RetrainToy) -> dict[str, str]:
    """What a machine has, as `shared`."""
    lines = toy.git("show-ref", "-d").splitlines()
    found = {name: commit for commit, name in map(str.split, lines)}
    wanted = ("refs/heads/retrain", "refs/tags/model")
    return {name: commit for name, commit in found.items() if name.startswith(wanted)}


def test_a_machine_that_is_behind(team: tuple[RetrainToy, RetrainToy]) -> None:
    a, b = team
    a.commit("0.7")  # a colleague's
    a.git("push", "-q", "origin", "main")
    (b.root / "inputs" / "export.txt").write_text("changed")
    before = b.git("rev-parse", "HEAD", "main"), b.git("status", "--porcelain")
    result, outcomes = retrained(b)
    # Judged against the version that the other machine has registered, with the colleague's code.
    assert (result["outcome"], result["version"]) == ("promoted", "v1.1.0")
    assert outcomes["share"] == "done"
    assert result["summary"] == "v1.1.0: accuracy 0.74, was [0.54]"
    assert (b.git("rev-parse", "HEAD", "main"), b.git("status", "--porcelain")) == before
    assert here(b) == shared(b)
    result, _ = retrained(a)
    assert (result["outcome"], result["version"]) == ("nothing new", None)
    assert here(a) == shared(a) == here(b)


class Interrupted(PlainSteps):
    """Something happens before a step."""

    def __init__(self, step: str, happening: Callable[[], object]) -> None:
        super().__init__()
        self._step, self._happening = step, happening

    def do(self, name: str, work: Callable[..., tuple[str, str]]) -> None:
        if name == self._step:
            self._happening()
        super().do(name, work)


def test_both_at_once(team: tuple[RetrainToy, RetrainToy], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = team
    monkeypatch.setattr("flows.retrain_steps.RETRY_SECONDS", (0.0,))
    a.batch("of-a", range(20, 23))
    b.batch("of-b", range(30, 33))
    steps = Interrupted("share", lambda: retrained(a))
    failed = pytest.raises(FlowError, match=r"(?s)git push: .*v1\.1\.0 is not registered")
    with locked(b.root), short(), failed:
        retrain_here(b.root, steps, False, None, False)
    assert Registry(a.root).in_stage() == Registry(a.root).version("v1.1.0")
    # Nothing of the one that came second is to be seen, at the remote or with itself.
    assert here(a) == shared(a)
    assert [version.name for version in Registry(b.root).versions()] == ["v1.0.0"]
    assert here(b).items() < shared(b).items() | {
        ("refs/heads/retrain", here(b)["refs/heads/retrain"])
    }
    result, _ = retrained(b)
    assert (result["outcome"], result["version"]) == ("promoted", "v1.2.0")
    assert "0.66, was [0.6]" in result["summary"]  # the images of both
    assert here(b) == shared(b)
    assert b.traces() == []


def test_killed_before_it_is_shared(team: tuple[RetrainToy, RetrainToy]) -> None:
    _, b = team
    before = shared(b)
    b.commit("0.7")
    killed_at(b, "share")
    assert shared(b) == before
    result, outcomes = retrained(b)
    assert (result["outcome"], result["version"]) == ("promoted", "v1.1.0")
    assert "train" not in outcomes
    assert here(b) == shared(b)
    assert b.traces() == []


def test_branches_that_have_parted(team: tuple[RetrainToy, RetrainToy]) -> None:
    _, b = team
    b.git("branch", "retrain", b.git("commit-tree", "-m", "other", "HEAD^{tree}"))
    before = here(b)["refs/heads/retrain"]
    with pytest.raises(FlowError, match="neither that of origin nor the one here holds the other"):
        retrained(b)
    assert here(b)["refs/heads/retrain"] == before
