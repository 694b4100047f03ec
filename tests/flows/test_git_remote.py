"""Retraining on several machines: clones of one bare repository, with a remote of DVC's."""

from __future__ import annotations

import os
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
    killed_before_it_forgets,
    make_retrain_toy,
    params,
    retrained,
    short,
)

from flows.flow_errors import FlowError
from flows.git_remote import fetch, share
from flows.retrain_run import locked, retrain_here
from flows.retrain_site import clear, open_site
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
    before = shared(b)
    steps = Interrupted("share", lambda: retrained(a))
    failed = pytest.raises(FlowError, match=r"(?s)git push: .*v1\.1\.0 is not registered")
    with locked(b.root), short(), failed:
        retrain_here(b.root, steps, False, None, False)
    assert Registry(a.root).in_stage() == Registry(a.root).version("v1.1.0")
    # Nothing of the one that came second is to be seen, at the remote or with itself.
    assert here(a) == shared(a)
    assert [version.name for version in Registry(b.root).versions()] == ["v1.0.0"]
    assert here(b) == before
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


def fetched(toy: RetrainToy) -> None:
    with locked(toy.root), short():
        fetch(open_site(toy.root), print, ())


def test_a_tag_that_both_have_is_named(team: tuple[RetrainToy, RetrainToy]) -> None:
    _, b = team
    b.git("tag", "-a", "-m", "another", "model@v1.0.0")
    with pytest.raises(FlowError, match=r"(?s)git fetch: .*\[rejected\] +model@v1\.0\.0 "):
        fetched(b)
    b.git("tag", "-d", "model@v1.0.0")
    fetched(b)
    assert here(b) == shared(b)


def test_a_push_that_the_remote_refuses_says_why(team: tuple[RetrainToy, RetrainToy]) -> None:
    a, b = team
    hook = a.root.parent / "origin" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho only maintainers may push\nexit 1\n")
    hook.chmod(0o755)
    fetched(b)
    b.git("branch", "-f", "retrain", b.git("commit-tree", "-p", "retrain", "-m", "", "main^{tree}"))
    with pytest.raises(
        FlowError, match=r"(?s)only maintainers may push.*pre-receive hook declined"
    ):
        share(open_site(b.root), {}, print, ())


def test_locks_that_a_killed_git_has_left(team: tuple[RetrainToy, RetrainToy]) -> None:
    _, b = team
    fetched(b)
    b.git("pack-refs", "--all")
    places = ["refs/remotes/origin/main", "refs/remotes/origin/my/branch", "packed-refs"]
    locks = [b.root / ".git" / f"{place}.lock" for place in places]
    theirs = b.root / ".git" / "refs/remotes/other/main.lock"
    for lock in (*locks, theirs):
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        os.utime(lock, (0, 0))
    locks[0].touch()  # at work
    with locked(b.root), short():
        clear(open_site(b.root))
    assert [lock.exists() for lock in (*locks, theirs)] == [True, False, False, True]


def test_branches_that_give_way_to_others(team: tuple[RetrainToy, RetrainToy]) -> None:
    a, b = team
    a.git("push", "-q", "origin", "main:feature")
    fetched(b)
    b.git("config", "fetch.prune", "true")
    b.git("tag", "-a", "-m", "not shared yet", "model@v1.1.0")
    a.git("push", "-q", "origin", ":feature")
    a.git("push", "-q", "origin", "main:feature/x")
    fetched(b)
    remotes = b.git("for-each-ref", "--format=%(refname:lstrip=3)", "refs/remotes/origin")
    assert set(remotes.splitlines()) - {"HEAD"} == {"feature/x", "main", "retrain"}
    assert set(here(b)) - set(shared(b)) == {"refs/tags/model@v1.1.0", "refs/tags/model@v1.1.0^{}"}


def test_a_rollback_made_elsewhere_holds(
    team: tuple[RetrainToy, RetrainToy], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = team
    b.commit("0.7")
    killed_before_it_forgets(b, monkeypatch)
    assert Registry(a.root, push=True).rollback()[1].name == "v1.0.0"
    tags = shared(a)
    result, outcomes = retrained(b)
    assert result["outcome"] == "nothing new"
    assert not {"finish", "promote"} & set(outcomes)
    assert here(b) == shared(b) == tags
    assert b.traces() == []


def test_branches_that_have_parted(team: tuple[RetrainToy, RetrainToy]) -> None:
    _, b = team
    b.git("branch", "retrain", b.git("commit-tree", "-m", "other", "HEAD^{tree}"))
    before = here(b)["refs/heads/retrain"]
    with pytest.raises(FlowError, match="neither that of origin nor the one here holds the other"):
        retrained(b)
    assert here(b)["refs/heads/retrain"] == before
