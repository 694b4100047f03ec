"""Worktrees for runs beside the user's: the committed code, the user's data, DVC's shared cache.

Nothing is written to the user's files, branch or index. Data that git does not carry is a link to
where the user has it; what DVC has in its cache is linked from there, where the file system can.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from components.errors import RepositoryError
from flows.flow_errors import FlowError
from flows.workspace_lock import workspace_lock
from tasks.repository import dvc, git

_AROUND = "around"
_RESUME = ".resume"


def head_commit(root: Path) -> str:
    """The commit that is checked out.

    Raises:
        FlowError: `root` is not the root of a git repository with a commit.
    """
    try:
        commit = git(root, "rev-parse", "--verify", "HEAD^{commit}")
        top = Path(git(root, "rev-parse", "--show-toplevel"))
    except RepositoryError:
        commit, top = "", None
    if top is None or top.resolve() != root.resolve():
        raise FlowError(f"{root}: not the root of a git repository with a commit")
    return commit


def cache_dir(root: Path) -> Path:
    """Where DVC's cache of a repository is, whichever of its configurations says so.

    Raises:
        RepositoryError: DVC cannot tell.
    """
    return (root / dvc(root, "cache", "dir")).resolve()


@contextmanager
def worktree(
    root: Path, folder: Path, commit: str, cache: Path, links: Sequence[str], kept: Path
) -> Iterator[tuple[Path, int]]:
    """A worktree for the length of the block; gives its root, and its workspace lock.

    Args:
        root: the user's repository.
        folder: of the worktree and what it needs around it. One that a killed process left there
            is removed.
        commit: to be checked out, on no branch.
        cache: DVC's.
        links: paths, relative to `root`, that are links to what the user has there, unless the
            commit has something there itself.
        kept: where the checkpoints of an interrupted training (`.resume`) come from, and go to.

    Raises:
        RepositoryError: git cannot make it.
        FlowError: somebody is at work there.
    """
    # A path such as ../data must lead out of the worktree, to nowhere but a place of its own.
    outward = max((PurePosixPath(link).parts.count("..") for link in links), default=0)
    tree = folder.joinpath(*[_AROUND] * outward, folder.name)
    remove_left_over(root, folder, kept)
    tree.parent.mkdir(parents=True)
    try:
        # Forced: git may know of one there that somebody has removed by hand.
        git(root, "worktree", "add", "--force", "--quiet", "--detach", str(tree), commit)
        _configure_dvc(root, tree, cache)
        for link in links:
            source, place = root / link, tree / link
            if source.exists() and not os.path.lexists(place):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(source.resolve())
        if kept.exists():
            kept.rename(tree / _RESUME)
        with workspace_lock(tree) as lock:
            yield tree, lock
    finally:
        _remove(root, folder, kept)


def _configure_dvc(root: Path, tree: Path, cache: Path) -> None:
    """Let DVC in a worktree find what it finds in the user's: the cache, remotes, credentials."""
    # What DVC itself reads and writes them with: a path may need quotes.
    from configobj import ConfigObj

    folder = root / ".dvc"
    shared, local = (
        ConfigObj(str(folder / name), encoding="utf-8", interpolation=False)
        for name in ("config", "config.local")
    )
    for source in (shared, local):
        for section in source.sections:
            url = source[section].get("url", "")
            # A relative path is meant from the folder of the file that it stands in.
            if "remote " in section and url and "://" not in url:
                own = local.setdefault(section, {})
                if source is local or "url" not in own:
                    own["url"] = str((folder / Path(url).expanduser()).resolve())
    local.setdefault("cache", {}).update({"dir": str(cache), "type": "reflink,hardlink,symlink"})
    path = tree / ".dvc" / "config.local"
    path.touch(mode=0o600)
    with path.open("wb") as file:
        local.write(file)


def _tree(folder: Path) -> Path:
    """The root of the worktree in a folder."""
    place = folder
    while (place / _AROUND).is_dir():
        place /= _AROUND
    return place / folder.name


def _remove(root: Path, folder: Path, kept: Path) -> None:
    """Remove a worktree, whole or half made; what its links lead to stays."""
    resume = _tree(folder) / _RESUME
    if resume.is_dir() and any(resume.iterdir()) and not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        resume.rename(kept)
    shutil.rmtree(folder, ignore_errors=True)
    # `git worktree prune` would also forget those of the user's that lie on a drive that is away.
    # By place, not by name: another checkout of the repository may have a sweep of its own.
    registered = Path(git(root, "rev-parse", "--path-format=absolute", "--git-common-dir"))
    for place in registered.glob("worktrees/*/gitdir"):
        if Path(place.read_text(encoding="utf-8").strip()).is_relative_to(folder):
            shutil.rmtree(place.parent, ignore_errors=True)
    with contextlib.suppress(OSError):
        (registered / "worktrees").rmdir()


def remove_left_over(root: Path, folder: Path, kept: Path) -> None:
    """Remove a worktree whose process was killed, if there is one; waits for that one's guard.

    Raises:
        FlowError: it is in use.
    """
    tree = _tree(folder)
    if (tree / ".dvc").is_dir():
        with workspace_lock(tree):
            pass
    # Also where there is no folder: git may know of it.
    _remove(root, folder, kept)
