"""What retrainings of several machines share: the branch and the registry's tags at a git remote.

A run begins with what the others have done, and ends with sending what it has done, in one step:
the remote takes the branch and all tags, or nothing. From its registration until then a version is
this machine's alone, where it may be in production: what the remote does not take is taken back, by
the same run, or by the next one if it was killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flows.commits import is_ancestor, ref
from flows.dvc_stage import run_again
from flows.flow_errors import FlowError
from flows.progress import OnLine
from flows.retrain_site import Site
from tasks.model_registry import Registry
from tasks.registry_tags import ARTIFACT
from tasks.repository import git, git_command

# Those of the registry; one that both sides have under one name is an error, and none is replaced.
_TAGS = [f"refs/tags/{ARTIFACT}{sign}*:refs/tags/{ARTIFACT}{sign}*" for sign in "@#"]


def fetch(site: Site, on_line: OnLine, waits: Sequence[float]) -> None:
    """Bring what the others have done; the branch of retraining then shows it, and none other does.

    Args:
        site: as it is before.
        on_line: takes what git says.
        waits: seconds, after each of which it is tried again.

    Raises:
        FlowError: the remote cannot be reached, or both sides have gone on by themselves.
    """
    settings = site.params.retrain
    remote, branch = settings.git_remote, settings.branch
    # All branches: also that which is checked out here may have gone on there. One that has gone
    # there goes here, as it may be in the way of another; but no tag goes: it may not be there yet.
    heads = ["--prune", str(remote), f"+refs/heads/*:refs/remotes/{remote}/*"]
    for what in (heads, ["--no-prune", str(remote), *_TAGS]):
        # Not quiet: then it would not say which tags both sides have.
        command = git_command(site.root, "fetch", "--no-tags", *what)
        run_again(command, "git fetch", site.root, on_line, waits, {})
    theirs = ref(site.root, f"refs/remotes/{remote}/{branch}")
    if theirs is None or (site.tip and is_ancestor(site.root, theirs, site.tip)):
        return
    if site.tip and not is_ancestor(site.root, site.tip, theirs):
        raise FlowError(
            f"branch {branch}: neither that of {remote} nor the one here holds the other; "
            f"`git branch --force {branch} {remote}/{branch}` takes theirs"
        )
    git(site.root, "update-ref", site.branch, theirs, site.tip or "0" * 40)


def share(site: Site, options: Mapping[str, Any], on_line: OnLine, waits: Sequence[float]) -> None:
    """Send the branch and the registry's tags, all or nothing.

    Args:
        site: retrained.
        options: of the command: environment and lock.
        on_line: takes what git says.
        waits: as of `fetch`.

    Raises:
        FlowError: the remote does not take them; another machine may have been first.
    """
    remote = str(site.params.retrain.git_remote)
    words = ["push", "--quiet", "--atomic", remote, site.branch, *_TAGS]
    run_again(git_command(site.root, *words), "git push", site.root, on_line, waits, options)


def withdraw(site: Site, record: Mapping[str, Any]) -> None:
    """Take back here a version that was decided on, unless the others have it.

    Args:
        site: retrained.
        record: of what was decided.
    """
    root, commit, settings = site.root, record["commit"], site.params.retrain
    if settings.git_remote:
        theirs = ref(root, f"refs/remotes/{settings.git_remote}/{settings.branch}")
        if theirs and is_ancestor(root, commit, theirs):
            return
    # The last first: no stage ever holds what is no version.
    for event in reversed(Registry(root).events):
        if event.commit == commit:
            git(root, "tag", "-d", event.tag)
    if ref(root, site.branch) == commit:
        words = [site.branch, record["tip"]] if record["tip"] else ["-d", site.branch]
        git(root, "update-ref", *words, commit)
