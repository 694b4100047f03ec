"""Retraining from one version to the next: real git, DVC, registry and batches; quick stages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from retrain_repository import (
    CODE,
    RetrainToy,
    failed_at,
    fill,
    killed_at,
    killed_before_it_forgets,
    params,
    retrained,
    short,
    started,
)

from flows.flow_errors import FlowError
from flows.retrain_run import last_if_nothing_new, locked
from flows.retrain_site import open_site
from tasks.model_registry import Registry


@pytest.fixture
def toy(first: RetrainToy, tmp_path: Path) -> Iterator[RetrainToy]:
    toy = first.copied(tmp_path)
    yield toy
    assert toy.traces() == []


def dvc(toy: RetrainToy, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=toy.root, check=True)


def production(toy: RetrainToy) -> str:
    version = Registry(toy.root).in_stage()
    assert version is not None
    return version.name


@pytest.mark.slow
def test_what_a_first_retraining_leaves(first: RetrainToy) -> None:
    assert first.traces() == []
    assert production(first) == "v1.0.0"
    files = first.git("diff", "--name-only", "main", "retrain").splitlines()
    assert "dvc.lock" in files
    assert "reports/verdict.json" in files
    assert "metrics/train.json" in files
    assert not {"stage.py", "new.txt", "data/raw"} & set(files)
    assert first.git("log", "-1", "--format=%s", "retrain").startswith("Retrain: accuracy 0.54")
    assert (first.root / ".dvc/tmp/retrain/last/reports/verdict.json").exists()
    with short():
        last = last_if_nothing_new(first.root, None)
        assert last is not None
        assert last["outcome"] == "nothing new"
        assert last_if_nothing_new(first.root, "review") is None


@pytest.mark.slow
def test_good_batches_are_merged_and_bad_ones_refused(toy: RetrainToy) -> None:
    bad, good = toy.batch("a-bad", range(10, 12)), toy.batch("b-good", range(20, 23))
    (bad / "yes" / "10.png").write_bytes(b"no picture")
    toy.batch(".being-copied", range(30, 31))
    result, outcomes = retrained(toy)
    assert result["outcome"] == "promoted"
    assert list(result["refused"]) == ["a-bad"]
    assert "10.png" in result["refused"]["a-bad"]
    assert outcomes["data"] == "partly"
    assert (len(list(bad.rglob("*.png"))), len(list(good.rglob("*.png")))) == (4, 6)
    assert len(list((toy.root / "data" / "raw").rglob("*.png"))) == 4
    body = toy.git("log", "-1", "--format=%B", "retrain")
    assert "0.60" in body
    assert "Merged batch: b-good" in body
    assert "Refused batch: a-bad" in body
    assert toy.git("diff", "--name-only", "main", "retrain", "--", "data/raw.dvc")
    assert retrained(toy)[0]["outcome"] == "nothing new"


@pytest.mark.slow
def test_the_page_is_told_what_it_is_about(
    toy: RetrainToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    pipeline = toy.root / "dvc.yaml"
    tree = json.loads(pipeline.read_text())
    # As the page's stage, it is run again after the gate.
    copy = "import shutil; shutil.copy('.dvc/tmp/retraining.json', 'reports/told.json')"
    tree["stages"]["report"] = {"cmd": f'python -c "{copy}"', "outs": ["reports/told.json"]}
    pipeline.write_text(json.dumps(tree))
    toy.tell("train", "0.6")
    toy.git("commit", "-qm", "a page", "--", "dvc.yaml", "inputs")
    toy.batch("may", range(20, 22))
    assert retrained(toy)[0]["outcome"] == "promoted"
    told = json.loads((toy.root / ".dvc/tmp/retrain/last/reports/told.json").read_text())
    assert told == {
        "champion": "v1.0.0",
        "commit": toy.git("rev-parse", "model@v1.0.0^{commit}"),
        "merged": ["may"],
        "refused": {},
    }


@pytest.mark.slow
def test_a_worse_model_is_not_promoted(toy: RetrainToy) -> None:
    tip = toy.git("rev-parse", "retrain")
    toy.commit("0.3")
    result, _ = retrained(toy)
    assert (result["outcome"], result["version"]) == ("refused", None)
    assert "failed: gain, low end" in result["summary"]
    assert production(toy) == "v1.0.0"
    assert toy.git("rev-parse", "retrain") == tip
    again, outcomes = retrained(toy)
    assert (again["outcome"], list(outcomes)) == ("nothing new", ["retrain"])


@pytest.mark.slow
def test_killed_again_and_again_it_gets_there(toy: RetrainToy) -> None:
    toy.commit("0.7")
    killed_at(toy, "train")
    assert production(toy) == "v1.0.0"
    killed_at(toy, "register")
    assert [v.name for v in Registry(toy.root).versions()] == ["v1.0.0"]
    killed_at(toy, "promote")
    assert production(toy) == "v1.0.0"
    result, outcomes = retrained(toy)
    assert (result["outcome"], result["version"]) == ("promoted", "v1.1.0")
    assert "train" not in outcomes
    assert production(toy) == "v1.1.0"
    assert [v.name for v in Registry(toy.root).versions()] == ["v1.1.0", "v1.0.0"]
    assert retrained(toy)[0]["outcome"] == "nothing new"


def test_a_look_removes_what_a_killed_one_has_left(toy: RetrainToy) -> None:
    # As if killed while publishing: all is done, and nothing is new.
    site = open_site(toy.root)
    toy.git("worktree", "add", "-q", "--detach", str(site.tree / site.tree.name))
    with locked(toy.root), short():
        assert last_if_nothing_new(toy.root, None) is not None
    assert toy.traces() == []


@pytest.mark.slow
def test_a_failing_stage_as_a_prefect_flow(toy: RetrainToy, prefect_server: str) -> None:
    from flows.retrain import retrain

    toy.commit("fail")
    before = toy.git("for-each-ref")
    with short():
        state = retrain(str(toy.root), return_state=True)
    assert state.is_failed()
    assert state.message == "train: nothing was learnt"
    assert toy.git("for-each-ref") == before


@pytest.mark.slow
def test_data_that_is_recorded_since_stays_as_it_is(toy: RetrainToy) -> None:
    # The branch does not know of the new data's `.dvc` file, which the commit checked out has.
    params(toy, {"data: data/raw": "data: data/other"})
    fill(toy.root / "data" / "other", range(2))
    dvc(toy, "add", "-q", "data/other")
    toy.git("add", "data/other.dvc")
    toy.commit("0.7")
    toy.git("commit", "-qm", "data", "--", "data/other.dvc")
    own = toy.root / "data" / "other" / "no" / "own.png"
    own.write_bytes(b"not recorded yet")
    toy.batch("new", range(4, 5))
    killed_at(toy, "register")
    assert own.exists()
    toy.commit("0.8")
    result, outcomes = retrained(toy)
    assert own.read_bytes() == b"not recorded yet"
    assert outcomes["finish"] == "done"
    assert "Merged batch: new" in toy.git("log", "--format=%B", "retrain")
    # What was killed is finished as it was decided, and what has come since is new.
    assert (result["outcome"], result["version"]) == ("promoted", "v1.2.0")
    assert retrained(toy)[0]["outcome"] == "nothing new"


@pytest.mark.slow
def test_what_was_taken_out_of_production_does_not_return(
    toy: RetrainToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.commit("0.7")
    killed_before_it_forgets(toy, monkeypatch)
    assert production(toy) == "v1.1.0"
    Registry(toy.root).rollback()
    result, outcomes = retrained(toy)
    assert (result["outcome"], production(toy)) == ("nothing new", "v1.0.0")
    assert "finish" not in outcomes


@pytest.mark.slow
def test_what_cannot_be_finished_is_taken_back_and_made_again(toy: RetrainToy) -> None:
    tip = toy.git("rev-parse", "retrain")
    toy.commit("0.7")
    failed_at(toy, "promote")
    assert [v.name for v in Registry(toy.root).versions()] == ["v1.1.0", "v1.0.0"]
    failed_at(toy, "promote")  # the next run, which finishes
    assert [v.name for v in Registry(toy.root).versions()] == ["v1.0.0"]
    assert toy.git("rev-parse", "retrain") == tip
    assert production(toy) == "v1.0.0"
    result, outcomes = retrained(toy)
    assert (result["outcome"], production(toy)) == ("promoted", "v1.1.0")
    assert outcomes["register"] == "done"


@pytest.mark.slow
def test_what_is_in_production_stays_where_finishing_fails(
    toy: RetrainToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.commit("0.7")
    killed_before_it_forgets(toy, monkeypatch)
    tags = toy.git("show-ref")
    failed_at(toy, "finish")
    assert toy.git("show-ref") == tags
    assert production(toy) == "v1.1.0"


@pytest.mark.slow
@pytest.mark.parametrize("relative", [False, True])
def test_imported_data_is_as_at_its_source(toy: RetrainToy, tmp_path: Path, relative: bool) -> None:
    source = tmp_path / "source"
    fill(source, range(2))
    toy.git("rm", "-q", "--cached", "data/raw.dvc")
    (toy.root / "data" / "raw.dvc").unlink()
    shutil.rmtree(toy.root / "data" / "raw")
    dvc(toy, "import-url", "-q", "../../source" if relative else str(source), "data/raw")
    toy.git("add", "data/raw.dvc")
    toy.git("commit", "-qm", "import", "--", "data/raw.dvc")
    fill(source, range(5))
    result, _ = retrained(toy)
    assert (result["outcome"], result["summary"]) == (
        "promoted",
        "v1.1.0: accuracy 0.60, was [0.54]",
    )
    assert len(list((toy.root / "data" / "raw").rglob("*.png"))) == 4  # the user's own
    with short():
        assert last_if_nothing_new(toy.root, None) is None  # only a look at the source tells
    result, outcomes = retrained(toy)
    assert (result["outcome"], list(outcomes)) == ("nothing new", ["data", "retrain"])


def test_help_needs_no_prefect() -> None:
    code = (
        "import sys; from flows.retrain_command import main\n"
        "try: main(['--help'])\n"
        "finally: assert 'prefect' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CODE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "exit status: 0 promoted" in done.stdout


def test_one_at_a_time(toy: RetrainToy) -> None:
    with (
        locked(toy.root),
        pytest.raises(FlowError, match="another retraining"),
        locked(toy.root),
    ):
        pass


@pytest.mark.slow
def test_the_second_of_two_processes_is_refused(toy: RetrainToy) -> None:
    toy.commit("hang")
    refs = toy.git("for-each-ref")
    with started(toy) as one:
        toy.wait_until(lambda: toy.runs("stage.py"))
        with pytest.raises(FlowError, match=rf"another retraining \(process {one.pid}\)"):
            retrained(toy)
        assert one.poll() is None
        assert toy.runs("stage.py")
        one.kill()
    assert toy.git("for-each-ref") == refs
    with locked(toy.root), short():
        last_if_nothing_new(toy.root, None)  # removes what the killed one has left


def test_branch_that_is_checked_out(toy: RetrainToy) -> None:
    toy.git("checkout", "-q", "retrain")
    with pytest.raises(FlowError, match=r"retrain\.branch = retrain: is checked out in"):
        retrained(toy)


def test_batches_for_data_that_nothing_records(toy: RetrainToy) -> None:
    params(toy, {"data: data/raw": "data: data/other"})
    fill(toy.root / "data" / "other", range(2))
    toy.batch("new", range(4, 5))
    with pytest.raises(FlowError, match="`dvc add data/other` and commit"):
        retrained(toy)
