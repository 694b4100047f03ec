"""Commands of git and DVC: what they are shielded from, and how they fail."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from components.errors import RepositoryError
from tasks.repository import dvc, dvc_environment, git, git_revision


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, of a file beyond ASCII, by somebody the environment names."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "somebody@example.org")
    root = tmp_path / "a folder"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / "bär 1.txt").write_text("one\n\n")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "start")
    return root


def test_what_git_prints(root: Path) -> None:
    assert git(root, "ls-files") == "bär 1.txt"
    assert git(root, "show", "HEAD:bär 1.txt") == "one"
    assert git(root, "log", "--format=%an") == "somebody"
    assert git(root, "hash-object", "--stdin", stdin="one\n").startswith("5626abf0f72e")
    assert git_revision(root) == git(root, "rev-parse", "HEAD")


def test_what_a_hook_around_us_has_set_is_not_followed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other" / ".git" / "index"))
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    assert git(root, "ls-files", "*.txt") == "bär 1.txt"
    assert "GIT_DIR" not in dvc_environment()


def test_only_a_push_runs_hooks(root: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "store")
    git(root, "remote", "add", "origin", str(tmp_path / "store"))
    hooks = root / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("pre-commit", "pre-push"):
        (hooks / name).write_text("#!/bin/sh\necho refused by me >&2\nexit 1\n")
        (hooks / name).chmod(0o755)
    git(root, "commit", "-q", "--allow-empty", "-m", "again")
    with pytest.raises(RepositoryError, match=r"git push in .*: refused by me"):
        git(root, "push", "-q", "origin", "main")


def test_reading_does_not_write_the_index(root: Path) -> None:
    index = root / ".git" / "index"
    os.utime(root / "bär 1.txt", (1, 1))
    before = index.read_bytes()
    assert git(root, "status", "--porcelain") == ""
    assert index.read_bytes() == before
    subprocess.run(["git", "status"], cwd=root, check=True, capture_output=True)
    assert index.read_bytes() != before  # what git does elsewhere


def test_errors_are_in_the_words_of_git_and_dvc(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RepositoryError, match=r"git show in .*a folder: fatal: .*nowhere"):
        git(root, "show", "nowhere")
    assert git_revision(tmp_path) == "unknown"
    with pytest.raises(RepositoryError) as failure:
        dvc(root, "status")
    first, *others = str(failure.value).splitlines()
    assert first.startswith(f"dvc status in {root}: you are not inside of a DVC repository")
    assert not any(line.startswith(("ERROR", "Having")) or not line for line in others)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RepositoryError, match=r"git status in .*: cannot be run: .*'git'"):
        git(root, "status")


def test_a_command_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 300\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(RepositoryError, match=r"git status in .*: not done after 0.2 s"):
        git(tmp_path, "status", seconds=0.2)
