"""Versions and stages as tags: what is refused, what GTO and DVC read; nothing is half done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.errors import RegistryError
from tasks import model_registry
from tasks.model_registry import Registry
from tasks.registry import list_lines, main, show_lines
from tasks.registry_tags import read_events

MD5 = "5bbf5a52328e7439ae6e719dfe712200"  # of b"one\n"
PIPELINE = {
    "stages": {
        "export": {
            "cmd": f'{sys.executable} -c "import pathlib, shutil; '
            "pathlib.Path('models').mkdir(exist_ok=True); "
            "shutil.copy('input.txt', 'models/model.onnx')\"",
            "deps": ["input.txt"],
            "outs": ["models/model.onnx"],
        }
    },
    "artifacts": {"model": {"path": "models/model.onnx", "type": "model"}},
}


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.org")


def commit(root: Path, number: int) -> None:
    """A commit that looks like a run of the pipeline."""
    (root / "metrics").mkdir(exist_ok=True)
    figures = {"split": "test", "accuracy": number / 10}
    (root / "metrics" / "evaluate.json").write_text(json.dumps(figures))
    out = {"path": "models/model.onnx", "md5": MD5}
    (root / "dvc.lock").write_text(yaml.safe_dump({"stages": {"export": {"outs": [out]}}}))
    git(root, "add", "-A")
    git(root, "commit", "-qm", f"run {number}")


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """A repository with one commit, and a DVC that says what a test puts into `answers`."""
    root = tmp_path / "repo"
    root.mkdir()
    git(tmp_path, "init", "-q", "-b", "main", "repo")
    (root / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    commit(root, 1)
    monkeypatch.setattr(model_registry, "_dvc", FakeDvc())
    return root


class FakeDvc:
    """Records calls; `get` writes a file; others answer what they are told, or fail."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.answers: dict[str, str | Exception] = {"remote": "store\t/somewhere"}
        self.content = b"one\n"

    def __call__(self, root: Path, *arguments: str) -> str:
        self.calls.append(" ".join(arguments[:2]))
        if arguments[0] == "get":
            Path(arguments[arguments.index("-o") + 1]).write_bytes(self.content)
        if self.calls[-1] == "status --cloud" and "status --cloud" not in self.answers:
            return "{}" if "push" in self.calls else '{"models/model.onnx": "new"}'
        answer = self.answers.get(" ".join(arguments[:2]), self.answers.get(arguments[0], ""))
        if isinstance(answer, Exception):
            raise answer
        return answer


def registered(root: Path, count: int) -> Registry:
    """A registry with `count` versions of a commit each."""
    registry = Registry(root)
    for number in range(1, count + 1):
        if number > 1:
            commit(root, number)
        registry.register()
    return registry


def test_the_tag_comes_last_and_after_the_push(toy):
    version = Registry(toy).register(reason="the first")
    assert version.name == "v1.0.0"
    calls = model_registry._dvc.calls  # type: ignore[attr-defined]
    pushed = calls.index("push")
    assert pushed < calls.index("status --cloud", pushed) < calls.index("get --rev")
    assert git(toy, "tag").split() == ["model@v1.0.0"]
    assert git(toy, "tag", "-l", "--format=%(contents)").split() == [
        "register",
        "v1.0.0",
        "the",
        "first",
    ]
    assert Registry(toy).register() == version  # again: the same one, and no tag
    assert git(toy, "tag").split() == ["model@v1.0.0"]


def break_input(toy: Path, dvc: FakeDvc) -> None:
    (toy / "dvc.yaml").write_text("changed")


def break_lock(toy: Path, dvc: FakeDvc) -> None:
    (toy / "dvc.lock").write_text("stages: {}")
    git(toy, "commit", "-qam", "no model")


def break_artifact(toy: Path, dvc: FakeDvc) -> None:
    (toy / "dvc.yaml").write_text("stages: {}")
    git(toy, "commit", "-qam", "no artifact")


def break_head(toy: Path, dvc: FakeDvc) -> None:
    git(toy, "checkout", "-q", "--orphan", "empty")


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (break_input, "not as in the last commit: dvc.yaml; commit that first"),
        (break_lock, r"dvc.lock: no output models/model.onnx in \w{7}: run `dvc repro`"),
        (break_artifact, "dvc.yaml: artifacts.model.path: missing"),
        (break_head, "there is no commit yet"),
        (
            lambda _, dvc: dvc.answers.update({"status --json": '{"export": []}'}),
            r"not those of the last commit \(changed: export\): run `dvc repro`",
        ),
        (
            lambda _, dvc: dvc.answers.update({"push": RegistryError("dvc push: no route")}),
            "dvc push: no route",
        ),
        (
            lambda _, dvc: dvc.answers.update({"status --cloud": '{"models/model.onnx": "new"}'}),
            "1 files are not on the remote, or not in the cache",
        ),
        (lambda _, dvc: setattr(dvc, "content", b"two\n"), "its bytes are damaged"),
    ],
)
def test_what_cannot_be_made_again_is_not_registered(toy, breaking, message):
    breaking(toy, model_registry._dvc)
    with pytest.raises(RegistryError, match=message):
        Registry(toy).register()
    assert git(toy, "tag") == ""


def test_without_a_remote_nothing_is_pushed(toy):
    dvc = model_registry._dvc
    dvc.answers["remote"] = ""  # type: ignore[attr-defined]
    Registry(toy).register()
    assert "push" not in dvc.calls  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("bumps", "names"),
    [
        (["minor", "minor"], ["v1.2.0", "v1.1.0", "v1.0.0"]),
        (["patch", "major", "minor"], ["v2.1.0", "v2.0.0", "v1.0.1", "v1.0.0"]),
        (["minor"] * 10, ["v1.10.0", "v1.9.0", "v1.8.0"]),
    ],
)
def test_numbers_rise(toy, bumps, names):
    registry = Registry(toy)
    registry.register()
    for number, bump in enumerate(bumps, start=2):
        commit(toy, number)
        registry.register(bump)
    assert [version.name for version in registry.versions()][: len(names)] == names


def test_promotions_and_rollbacks(toy):
    registry = registered(toy, 3)
    assert registry.in_stage() is None
    assert registry.promote("1.0.0") is None
    for name in ("v1.1.0", "v1.2.0"):
        registry.promote(name, reason="better")
    assert registry.promote("v1.2.0").name == "v1.2.0"  # is there already
    left, back = registry.rollback(reason="wrong on reds")
    assert (left.name, back.name) == ("v1.2.0", "v1.1.0")
    assert registry.rollback()[1].name == "v1.0.0"  # not to v1.2.0
    with pytest.raises(RegistryError, match=r"there was no version before v1.0.0"):
        registry.rollback()
    registry.promote("v1.2.0")  # what was rolled back may come again
    assert registry.rollback()[1].name == "v1.0.0"
    stages = [event for event in registry.events if event.kind == "assign"]
    assert [event.counter for event in stages] == list(range(1, 8))
    assert [event.is_rollback for event in stages] == [False] * 3 + [True] * 2 + [False, True]
    assert stages[3].reason == "roll back to v1.1.0: production (was v1.2.0); wrong on reds"


def test_every_tag_is_later_than_those_before(toy):
    """DVC takes the last by time, in whole seconds; these were all written in the same one."""
    registry = registered(toy, 2)
    for name in ("v1.0.0", "v1.1.0") * 6:
        registry.promote(name)
    times = [event.seconds for event in read_events(toy)]
    assert len(set(times)) == len(times) == 14
    assert registry.in_stage().name == "v1.1.0"


def test_stages_are_apart(toy):
    registry = registered(toy, 2)
    registry.promote("v1.0.0")
    registry.promote("v1.1.0", "staging")
    assert registry.in_stage("staging").name == "v1.1.0"
    assert registry.in_stage().name == "v1.0.0"
    with pytest.raises(RegistryError, match="stage 'a b': letters, digits"):
        registry.promote("v1.0.0", "a b")


def test_a_retired_version_goes_nowhere(toy):
    registry = registered(toy, 3)
    for name in ("v1.0.0", "v1.1.0", "v1.2.0"):
        registry.promote(name)
    with pytest.raises(RegistryError, match=r"v1.2.0: is in production: promote another"):
        registry.retire("v1.2.0")
    assert registry.retire("v1.1.0").retired
    assert registry.rollback()[1].name == "v1.0.0"  # past the retired one
    with pytest.raises(RegistryError, match=r"v1.1.0: is retired"):
        registry.promote("v1.1.0")
    assert "retired" in "\n".join(list_lines(registry))


def test_a_version_whose_file_is_gone_is_not_promoted(toy):
    registry = registered(toy, 1)
    model_registry._dvc.answers["get"] = RegistryError("dvc get: gone")  # type: ignore[attr-defined]
    with pytest.raises(RegistryError, match="dvc get: gone"):
        registry.promote("v1.0.0")
    assert registry.in_stage() is None


def test_a_push_to_git_that_fails_leaves_no_tag(toy, tmp_path):
    git(tmp_path, "clone", "-q", "--bare", "repo", "origin.git")
    git(toy, "remote", "add", "origin", str(tmp_path / "origin.git"))
    Registry(toy, push=True).register()
    assert "model@v1.0.0" in git(tmp_path / "origin.git", "tag")
    registry = Registry(toy, push=True)
    hook = tmp_path / "origin.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(RegistryError, match="nothing was recorded"):
        registry.promote("v1.0.0")
    assert git(toy, "tag").split() == ["model@v1.0.0"]


def test_tags_go_where_retrainings_are_shared(toy, tmp_path):
    for name in ("origin", "team"):
        git(tmp_path, "clone", "-q", "--bare", "repo", f"{name}.git")
        git(toy, "remote", "add", name, str(tmp_path / f"{name}.git"))
    (toy / "params.yaml").write_text("retrain: {git_remote: team}")
    commit(toy, 2)
    Registry(toy, push=True).register()
    assert git(tmp_path / "team.git", "tag").split() == ["model@v1.0.0"]
    assert git(tmp_path / "origin.git", "tag") == ""
    git(toy, "remote", "remove", "team")
    with pytest.raises(RegistryError, match=r"git_remote = team: no git remote; there are: origin"):
        Registry(toy, push=True)


def test_a_shallow_clone_may_lack_versions(toy, tmp_path):
    commit(toy, 2)
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{toy}", "shallow")
    with pytest.raises(RegistryError, match="a shallow clone"):
        Registry(tmp_path / "shallow")


def test_the_command(toy, monkeypatch, capsys):
    monkeypatch.chdir(toy)
    assert main(["list"]) == 0
    assert "no versions yet" in capsys.readouterr().out
    for words in (["register"], ["promote", "v1.0.0", "--reason", "first"], ["show", "1.0.0"]):
        assert main(words) == 0
    told = capsys.readouterr().out
    assert "production: v1.0.0" in told and f"models/model.onnx, MD5 {MD5}" in told
    assert main(["list"]) == 0
    assert "v1.0.0   production  accuracy 0.1000 on test" in capsys.readouterr().out
    assert main(["history"]) == 0
    assert "promote v1.0.0: production; first" in capsys.readouterr().out
    assert main(["fetch", "1.0.0", "champion.onnx"]) == 0
    assert Path("champion.onnx").read_bytes() == b"one\n"
    capsys.readouterr()
    assert main(["promote", "v7.0.0"]) == 1
    assert "error: registry: v7.0.0: no such version; there are v1.0.0" in capsys.readouterr().err
    assert main(["rollback"]) == 1 and main(["retire", "v1.0.0"]) == 1
    assert main(["history", "staging"]) == 0
    monkeypatch.chdir(toy.parent)
    assert main(["list"]) == 1
    assert "not a git repository" in capsys.readouterr().err


@pytest.mark.slow
def test_with_dvc_and_gto(tmp_path):
    """Two versions of a real pipeline with a remote: elsewhere gets what is in production."""
    root = tmp_path / "repo"
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}

    def dvc(*arguments: str, cwd: Path = root) -> None:
        command = [sys.executable, "-m", "dvc", *arguments]
        subprocess.run(command, cwd=cwd, env=env, check=True, capture_output=True)

    git(tmp_path, "init", "-q", "-b", "main", "repo")
    (root / ".dvc").mkdir()
    config = '[core]\nanalytics = false\nremote = store\n[remote "store"]\nurl = ../../remote\n'
    (root / ".dvc" / "config").write_text(config)
    (root / ".dvc" / ".gitignore").write_text("/tmp\n/cache\n")
    (root / ".gitignore").write_text("/models/\n")
    (root / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    registry = Registry(root)
    for content in ("one", "two"):
        (root / "input.txt").write_text(f"{content}\n")
        dvc("repro", "-q")
        git(root, "add", "-A")
        git(root, "commit", "-qm", content)
        registry.promote(registry.register().name)

    from gto.api import show  # what `gto show` prints

    def in_production() -> tuple[str, str]:
        shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
        (tmp_path / "elsewhere").mkdir()
        words = ("artifacts", "get", str(root), "model", "--stage", "production", "-o", "got")
        dvc(*words, cwd=tmp_path / "elsewhere")
        version = show(str(root))["model"]["stage"]["production"]
        return (tmp_path / "elsewhere" / "got").read_text(), version

    assert in_production() == ("two\n", "v1.1.0")
    registry.rollback()
    assert in_production() == ("one\n", "v1.0.0")
    assert "v1.0.0" in "\n".join(show_lines(registry, registry.version("v1.0.0")))
    # The bytes of a version are gone, here and there.
    for folder in (root / ".dvc" / "cache", tmp_path / "remote"):
        for file in folder.rglob("*"):
            if file.is_file() and file.read_text() == "two\n":
                file.unlink()
    with pytest.raises(RegistryError):
        registry.promote("v1.1.0")
    assert in_production() == ("one\n", "v1.0.0")
