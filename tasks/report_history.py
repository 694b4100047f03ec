"""What git knows of a workspace: the commit checked out, and what this version is compared with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.errors import ParamsError, RepositoryError
from components.hidden import hidden, secrets_of
from tasks.layout import STAGES, Layout
from tasks.params import Params, loads
from tasks.repository import git

if TYPE_CHECKING:
    from components.report.facts import Previous, Revision

# What the stages write: that these differ from the last commit says nothing about the code.
_OUTPUTS = ("dvc.lock", "metrics", "plots", "reports")
# Commits of other figures than these are not looked for any further back.
_MOST_COMMITS = 50


def revision(root: Path) -> Revision | None:
    """The commit checked out in `root` and what differs from it; None without git."""
    from components.report.facts import Revision

    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return None
    outside = [f":(exclude){name}" for name in _OUTPUTS]
    status = _git(root, "status", "--porcelain", "-z", "--no-renames", "--", ".", *outside) or ""
    return Revision(
        commit=commit,
        branch=_git(root, "branch", "--show-current") or "",
        changed=tuple(sorted(entry[3:] for entry in status.split("\0") if entry)),
    )


def previous_version(
    layout: Layout, figures: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Previous | None:
    """The last commit whose `metrics/evaluate.json` holds other figures than this run's.

    Args:
        layout: of the workspace.
        figures: of this run's evaluation.
        parameters: of this run, by dotted key.

    Returns:
        None where there is no such commit, no git, or the last commit holds no figures.
    """
    root = layout.root
    path = _inside(layout.metrics("evaluate"), root)
    if not _json_at(root, "HEAD", path):
        return None  # figures are not kept in git, or no more
    log = _git(root, "log", f"-{_MOST_COMMITS}", "--format=%H", "--", path)
    for commit in (log or "").splitlines():
        before = _json_at(root, commit, path)
        # What another version of timmflow measures besides is no other result.
        if all(before[name] == figures[name] for name in before if name in figures):
            continue
        return version_at(layout, commit, parameters)
    return None


def version_at(
    layout: Layout, commit: str, parameters: Mapping[str, Any], name: str = ""
) -> Previous | None:
    """A commit as a version to compare with; None where there is no such commit, or no git.

    Args:
        layout: of the workspace.
        commit: full hash.
        parameters: of this run, by dotted key.
        name: in the registry; empty: none.
    """
    from components.report.facts import Previous

    root = layout.root
    said = _git(root, "log", "-1", "--format=%cd%x09%s", "--date=short", commit, "--")
    if not said:
        return None
    made_at, subject = said.split("\t", 1)
    found = {stage: _json_at(root, commit, _inside(layout.metrics(stage), root))
             for stage in STAGES}  # fmt: skip
    return Previous(
        commit=commit,
        made_at=made_at,
        subject=subject,
        figures={stage: content for stage, content in found.items() if content},
        profile=_json_at(root, commit, _inside(layout.profile, root)),
        parameters=list(parameters_at(root, commit, parameters).items()),
        version=name,
    )


def shown_parameters(params: Params) -> dict[str, Any]:
    """Parameters by dotted key, without secrets."""
    return _flattened(params.model_dump(by_alias=True))


def _flattened(tree: Mapping[str, Any]) -> dict[str, Any]:
    return _rows(hidden(tree, secrets_of(os.environ)), "")


def _rows(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows |= _rows(value, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return rows


def parameters_at(root: Path, commit: str, now: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a commit, with all defaults.

    A file that this version of timmflow does not take was written for another one: its defaults
    are not known, so only what stands in it is taken, and the rest is as it is now.
    """
    text = _git(root, "show", f"{commit}:./params.yaml")
    if not text:
        return dict(now)
    try:
        return shown_parameters(loads(text, Path("params.yaml")))
    except ParamsError:
        pass
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError:
        return dict(now)
    return {**now, **_flattened(tree)} if isinstance(tree, dict) else dict(now)


def _json_at(root: Path, commit: str, path: str) -> dict[str, Any]:
    """An object of a commit's file; empty where there is none."""
    text = _git(root, "show", f"{commit}:./{path}")
    try:
        content = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}


def _inside(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _git(root: Path, *words: str) -> str | None:
    """What a git command prints; None where there is no git or no repository."""
    try:
        return git(root, *words, seconds=60)
    except RepositoryError:
        return None
