"""What commits hold, read without a working tree: files, and what DVC's files among them name."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.flow_errors import FlowError
from tasks.repository import git


def ref(root: Path, name: str) -> str | None:
    """The commit of a branch, by its full name; None: there is none."""
    return git(root, "for-each-ref", "--format=%(objectname)", name) or None


def is_ancestor(root: Path, old: str, new: str) -> bool:
    """Whether a commit holds all of another."""
    return git(root, "rev-list", "--count", old, f"^{new}") == "0"


def files(root: Path, commit: str) -> dict[str, str]:
    """The files of a commit, each with what names its content."""
    lines = git(root, "ls-tree", "-r", commit).splitlines()
    return {path: blob for blob, _, path in (line.partition("\t") for line in lines)}


def at(root: Path, commit: str, path: str) -> dict[str, Any]:
    """A YAML file of a commit.

    Raises:
        RepositoryError: there is none.
        FlowError: it is faulty.
    """
    try:
        tree = yaml.safe_load(git(root, "show", f"{commit}:{path}"))
    except yaml.YAMLError as error:
        raise FlowError(f"{path} of {commit[:8]}: not valid YAML: {error}") from None
    return tree if isinstance(tree, dict) else {}


def lock_outs(dvc_lock: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The outputs that a `dvc.lock` names."""
    stages = (dvc_lock.get("stages") or {}).values()
    return [out for stage in stages for out in stage.get("outs") or []]


def pointer_outs(pointer: str, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The outputs that a `.dvc` file names, their paths from the root.

    Args:
        pointer: its path, from the root.
        content: of it.
    """
    outs = content.get("outs") or []
    return [{**out, "path": from_root(pointer, content, out["path"])} for out in outs]


def from_root(pointer: str, content: Mapping[str, Any], path: str) -> str:
    """A path that stands in a `.dvc` file, from the root; see `pointer_outs`."""
    folder = posixpath.join(posixpath.dirname(pointer), content.get("wdir") or "")
    return posixpath.normpath(posixpath.join(folder, path))


def small_outputs(dvc_yaml: Mapping[str, Any]) -> list[str]:
    """Outputs that are for git and not for DVC's cache: metrics, plots, small reports."""
    found = []
    for stage in (dvc_yaml.get("stages") or {}).values():
        for kind in ("outs", "metrics", "plots"):
            for item in stage.get(kind) or []:
                if isinstance(item, dict):
                    found += [path for path, how in item.items() if how.get("cache") is False]
    return found
