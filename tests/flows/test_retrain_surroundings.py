"""Retraining where something around it is not as it should be; docs/operations.md has the table."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from retrain_repository import PlainSteps, RetrainToy, make_retrain_toy, retrained, short

from components.errors import RepositoryError, TimmflowError
from flows.cache_check import find_damaged
from flows.dvc_stage import deadline
from flows.flow_errors import FlowError, StageFailed
from flows.retrain_run import locked, retrain_here
from flows.retrain_site import open_site
from flows.retrain_steps import Retraining
from tasks.model_registry import Registry
from tasks.retrain_settings import RetrainSettings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, scrubbed: None) -> RetrainToy:
    """A repository with a remote, a model in production, and a better one to come."""
    # Not a copy of the other tests' `first`: DVC fetches the model with the champion's own remote.
    toy = make_retrain_toy(tmp_path_factory.mktemp("first").resolve() / "repo")
    dvc(toy, "remote", "add", "--quiet", "-d", "store", "../store")
    toy.git("commit", "-qm", "remote", "--", ".dvc/config")
    assert retrained(toy)[0]["outcome"] == "promoted"
    toy.commit("0.7")
    return toy


@pytest.fixture
def toy(first: RetrainToy, tmp_path: Path) -> Iterator[RetrainToy]:
    shutil.copytree(first.root.parent, tmp_path / "there", symlinks=True)
    toy = RetrainToy(tmp_path.resolve() / "there" / "repo")
    yield toy
    for process in toy.processes():
        process.kill()


def production(toy: RetrainToy) -> str:
    version = Registry(toy.root).in_stage()
    assert version is not None
    return version.name


def dvc(toy: RetrainToy, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=toy.root, check=True)


def store(toy: RetrainToy) -> Path:
    """The remote."""
    return toy.root.parent / "store"


def flip_a_bit(file: Path) -> None:
    """As a disk may do: same size, same time, still write-protected."""
    about = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    file.chmod(0o444)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


def cached(toy: RetrainToy, md5: str) -> Path:
    return toy.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def an_image(toy: RetrainToy) -> tuple[str, Path]:
    """An image of the data, and where it is in the cache."""
    folder = yaml.safe_load((toy.root / "data/raw.dvc").read_text())["outs"][0]["md5"]
    item = json.loads(cached(toy, folder).read_text())[0]
    return f"data/raw/{item['relpath']}", cached(toy, item["md5"])


def test_beside_a_users_repro_on_a_detached_head(toy: RetrainToy) -> None:
    toy.git("checkout", "-q", "--detach")
    head, refs = toy.git("rev-parse", "HEAD"), toy.git("for-each-ref", "refs/heads/main")
    toy.tell("export", "hang")  # the user's own change
    repro = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=toy.root,
        stdout=(log := (toy.root.parent / "log").open("w+")),
        stderr=subprocess.STDOUT,
    )
    toy.wait_until(lambda: "working on export" in Path(log.name).read_text())
    result, _ = retrained(toy)
    assert (result["outcome"], result["version"]) == ("promoted", "v1.1.0")
    assert repro.poll() is None
    assert toy.git("rev-parse", "HEAD", "--abbrev-ref", "HEAD").split() == [head, "HEAD"]
    assert toy.git("for-each-ref", "refs/heads/main") == refs
    assert (toy.root / "inputs/export.txt").read_text() == "hang"
    assert (toy.root / "out/train.txt").read_text() == "0.74"
    repro.kill()
    repro.wait()
    log.close()


def test_a_remote_that_is_away_and_comes_back(toy: RetrainToy) -> None:
    gone = store(toy).rename(store(toy).with_name("gone"))
    store(toy).write_text("no folder can be made here")
    with patch("flows.retrain_steps.RETRY_SECONDS", (0.0,)), pytest.raises(FlowError) as caught:
        retrained(toy)
    assert str(caught.value).startswith("dvc push: ")
    # Nothing of it is to be seen, and the champion is as it was.
    assert production(toy) == "v1.0.0"
    assert [version.name for version in Registry(toy.root).versions()] == ["v1.0.0"]
    store(toy).unlink()
    gone.rename(store(toy))
    before = set(store(toy).rglob("*"))
    result, outcomes = retrained(toy)
    assert (result["outcome"], result["version"]) == ("promoted", "v1.1.0")
    assert outcomes["finish"] == outcomes["push"] == "done"
    assert "train" not in outcomes
    assert set(store(toy).rglob("*")) > before
    assert toy.traces() == []


class FlowSteps(PlainSteps):
    """Fails as a flow does: with the step's name."""

    def do(self, name: str, work: Callable[..., tuple[str, str]]) -> None:
        try:
            super().do(name, work)
        except TimmflowError as error:
            raise StageFailed(name, str(error), 0.0) from None


def test_a_remote_that_stays_away(toy: RetrainToy) -> None:
    shutil.rmtree(store(toy))
    store(toy).write_text("no folder can be made here")
    steps = [FlowSteps(), FlowSteps()]
    for one in steps:
        with (
            patch("flows.retrain_steps.RETRY_SECONDS", ()),
            locked(toy.root),
            short(),
            pytest.raises(StageFailed, match=r"^push: dvc push: "),
        ):
            retrain_here(toy.root, one, False, None, False)
    assert [name for name, *_ in steps[1].rows] == ["finish"]
    assert (toy.root / ".dvc/tmp/retrain/decided.json").exists()  # and the next goes on, too


@pytest.mark.parametrize("words", [["register"], ["fetch", "v1.0.0", "champion"]])
def test_a_remote_that_hangs(toy: RetrainToy, words: list[str]) -> None:
    RetrainSettings(timeouts=dict.fromkeys(("finish", "gate", "register", "promote"), 0.1))
    toy.git("checkout", "-q", "-b", "here", "retrain")
    toy.git("commit", "-q", "--allow-empty", "-m", "no version yet")
    work = Retraining(open_site(toy.root), toy.root, {})
    (toy.root / "dvc.py").write_text("import time; time.sleep(300)")
    limit = deadline.set(time.monotonic() + 5)
    try:
        with pytest.raises(FlowError, match="ended by the limit of its step"):
            work.registry(words, print)
    finally:
        deadline.reset(limit)
    assert toy.processes() == []
    assert [version.name for version in Registry(toy.root).versions()] == ["v1.0.0"]


def test_a_flipped_bit_without_a_remote_is_refused(toy: RetrainToy) -> None:
    dvc(toy, "remote", "remove", "store")
    toy.git("commit", "-qm", "no remote", "--", ".dvc/config")
    name, file = an_image(toy)
    flip_a_bit(file)
    with pytest.raises(FlowError, match=f"damaged in DVC's cache: {name}: .* no remote"):
        retrained(toy)
    assert file.exists()
    assert production(toy) == "v1.0.0"
    assert toy.traces() == []


def test_flipped_bits_are_repaired_from_the_remote(toy: RetrainToy) -> None:
    _, file = an_image(toy)
    whole = file.read_bytes()
    champion = cached(toy, Registry(toy.root).model_file("retrain")[1])
    for damaged in (file, champion):
        flip_a_bit(damaged)
    result, outcomes = retrained(toy)
    assert (result["outcome"], outcomes["data"]) == ("promoted", "done")
    assert file.read_bytes() == whole
    assert not champion.exists()  # set aside; the gate was given the remote's
    # And where the remote's is no better:
    toy.commit("0.8")
    for damaged in (file, store(toy) / file.relative_to(toy.root / ".dvc/cache")):
        flip_a_bit(damaged)
    with pytest.raises(FlowError, match="damaged in DVC's cache, and at its remote: data/raw/"):
        retrained(toy)
    assert production(toy) == "v1.1.0"


def test_a_flipped_bit_in_what_a_stage_gave_before(toy: RetrainToy) -> None:
    lock = yaml.safe_load(toy.git("show", "retrain:dvc.lock"))
    out = lock["stages"]["train"]["outs"][0]
    flip_a_bit(cached(toy, out["md5"]))
    toy.commit("0.5")
    (toy.root / ".dvc/tmp/retrain/done.json").unlink()  # that would say: nothing new
    result, outcomes = retrained(toy)
    assert outcomes["train"] == "ran"  # restored first, and then seen to be damaged
    assert (outcomes["export"], result["outcome"]) == ("restored", "nothing new")
    assert find_damaged(toy.root / ".dvc/cache", [out]) == []


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        pytest.param(500, "^git worktree in ", id="no worktree"),
        pytest.param(40_000, "^dvc pull: .*disk I/O error", id="no database of DVC's"),
    ],
)
def test_a_full_disk(toy: RetrainToy, size: int, reason: str) -> None:
    # No file grows past so many bytes: the nearest to a full disk that needs no disk.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heads = toy.git("for-each-ref")
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        failed = pytest.raises((FlowError, RepositoryError), match=reason)
        with patch("flows.retrain_data.RETRY_SECONDS", ()), failed:
            retrained(toy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert toy.git("for-each-ref") == heads
    assert toy.traces() == []
    assert toy.git("status", "--porcelain") == ""
