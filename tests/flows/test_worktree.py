"""What DVC finds in a worktree; tests of sweeps and retraining have the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.worktree import _configure_dvc


def config(folder: Path) -> dict:
    """As DVC reads it."""
    from dvc.config import Config

    return Config.load_file(str(folder / ".dvc" / "config.local"))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A repository, and a worktree of it."""
    for name in ("repo", "tree"):
        (tmp_path / name / ".dvc").mkdir(parents=True)
    return tmp_path / "repo", tmp_path / "tree"


@pytest.mark.parametrize(
    "name",
    ["plain", "a b", "a #b", "a;b", "a,b", "it's", 'a "b"', 'it\'s "b"', "10%", "[b]", "=b"],
)
def test_a_cache_at_any_path(folders: tuple[Path, Path], name: str) -> None:
    root, tree = folders
    (root / ".dvc" / "config.local").write_text("[core]\n    analytics = false\n")
    _configure_dvc(root, tree, root / name)
    found = config(tree)
    assert found["core"] == {"analytics": "false"}
    assert found["cache"] == {"dir": str(root / name), "type": "reflink,hardlink,symlink"}
    assert (tree / ".dvc" / "config.local").stat().st_mode & 0o777 == 0o600


def test_remotes_are_where_they_were(folders: tuple[Path, Path]) -> None:
    root, tree = folders
    (root / ".dvc" / "config").write_text(
        '[\'remote "store"\']\n    url = "../../the #store"\n'
        "['remote \"home\"']\n    url = ~/store\n"
        "['remote \"cloud\"']\n    url = s3://bucket/a\n    verify = true\n"
        "['remote \"both\"']\n    url = ../one\n"
    )
    (root / ".dvc" / "config.local").write_text(
        "['remote \"cloud\"']\n    secret_access_key = p%w;d\n"
        "['remote \"both\"']\n    url = ../two\n"
    )
    _configure_dvc(root, tree, root / ".dvc" / "cache")
    assert config(tree)["remote"] == {
        "store": {"url": str(root.parent / "the #store")},
        "home": {"url": str(Path.home() / "store")},
        "cloud": {"secret_access_key": "p%w;d"},
        "both": {"url": str(root / "two")},
    }
