"""Remove what old runs have left: checkpoints, worktrees, DVC's cache, sent W&B runs, run history.

    python -m flows.clean                 says what would go, and how large it is
    python -m flows.clean --yes           removes it
    python -m flows.clean --days 7        older than a week instead of 30 days

In DVC's cache stays what the tip of any branch, any tag (so every version, the champion too), any
DVC experiment, or the files of any worktree name. Left alone are a cache outside the repository,
which others may share, and, unless `--cache` is given, one without a remote: older data is nowhere
else. No remote is touched. Prefect's history is that of this repository's flows, on the server that
is configured (PREFECT_API_URL).
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from components.tracking.plan import is_done, unsent
from flows.command_line import exit_code
from flows.flow_errors import FlowError
from flows.incoming_watch import DEPLOYMENT, resource
from flows.retrain_run import locked
from flows.retrain_site import folder_of, read_record
from flows.workspace_lock import lock_file, workspace_lock
from flows.worktree import cache_dir, remove_left_over
from tasks.repository import dvc, git

DAYS = 30.0
_DAY = 86400.0
# Runs that a server gives at a time.
_PAGE = 200


@dataclass(frozen=True)
class Item:
    """Something that can go.

    Args:
        what: it is, in a line.
        remove: does it.
    """

    what: str
    remove: Callable[[], object]


def items(root: Path, days: float, unsent_days: float, cache: bool) -> Iterator[Item]:
    """What can go of a repository's own; call with its locks held.

    Args:
        root: of the repository.
        days: younger things stay, but for worktrees that no process works in and DVC's cache.
        unsent_days: younger W&B runs stay if something of them is not sent.
        cache: look at DVC's cache.

    Raises:
        RepositoryError: DVC cannot tell what of its cache is needed.
    """
    before = time.time() - days * _DAY
    retrain, sweep = folder_of(root), root / ".dvc" / "tmp" / "sweep"
    trees = [(tree, retrain / "resume") for tree in (retrain / "tree").glob("*")]
    trees += [(tree, sweep / "resume" / tree.name) for tree in (sweep / "trees").glob("*")]
    for tree, kept in trees:
        yield Item(f"worktree    {_named(root, tree)}", partial(remove_left_over, root, tree, kept))
    resume = [*(root / ".resume").glob("*"), *(retrain / "resume").glob("*")]
    for folder in [*resume, *(sweep / "resume").glob("*")]:
        if folder.is_dir() and _newest(folder) < before:
            yield Item(f"checkpoints {_named(root, folder)}", partial(shutil.rmtree, folder))
    yield from _wandb(root, before, time.time() - unsent_days * _DAY)
    if cache:
        yield from _cache(root)


def _wandb(root: Path, before: float, unsent_before: float) -> Iterator[Item]:
    """What of W&B's is older."""
    home, waiting = root / "wandb", unsent(root)
    for run in sorted(home.glob("offline-run-*")):
        if is_done(run) and _newest(run) < before:
            yield Item(f"W&B, sent   {_named(root, run)}", partial(shutil.rmtree, run))
        elif run in waiting and _newest(run) < unsent_before:
            yield Item(f"W&B, unsent {_named(root, run)}", partial(shutil.rmtree, run))
    # Copies of what was sent, which are not needed to send it again, and what wandb says of itself.
    found = chain((home / "cache").rglob("*"), (home / "logs").glob("*"))
    old = [path for path in found if path.is_file() and _changed(path) < before]
    if old:
        yield Item(f"W&B's cache {_counted(old, 'files')}", partial(_unlink, old))


def _unlink(files: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _cache(root: Path) -> Iterator[Item]:
    """What of DVC's cache nothing names."""
    cache = cache_dir(root)
    # Elsewhere others may share it, and what they need cannot be known here.
    if not cache.is_relative_to(root) or not cache.is_dir():
        return
    blocks = git(root, "worktree", "list", "--porcelain").split("\n\n")
    places = [Path(block.splitlines()[0].partition(" ")[2]) for block in blocks if block]
    others = [str(place) for place in places if place != root and (place / ".dvc").is_dir()]
    words = ["gc", "--workspace", "--all-branches", "--all-tags", "--all-experiments", "--force"]
    words += ["--projects", *others] if others else []

    def run(*more: str) -> list[Path]:
        said = dvc(root, *words, *more)
        return [Path(path) for path in re.findall("^Removing (.+)$", said, re.MULTILINE)]

    idle = run("--dry")
    if idle:
        yield Item(f"DVC's cache {_counted(idle, 'objects')}", run)


def history(root: Path, days: float, name: str) -> Iterator[Item]:
    """Prefect's old runs of this repository, with their artifacts; none without a server."""
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is None:
        return
    import httpx
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        try:
            runs = list(_old_runs(client, root, time.time() - days * _DAY, name))
        except httpx.HTTPError as error:
            raise FlowError(
                f"the Prefect server at {client.api_url} does not answer ({type(error).__name__})"
            ) from None
    if runs:

        def remove() -> None:
            with get_client(sync_client=True) as client:
                for run in runs:
                    _forget(client, run)

        yield Item(f"history     {len(runs)} runs at {client.api_url}", remove)


def _old_runs(client: Any, root: Path, before: float, name: str) -> Iterator[Any]:
    from datetime import UTC, datetime

    from prefect.client.schemas import filters

    wanted = {
        "flow_filter": filters.FlowFilter(
            name=filters.FlowFilterName(any_=["retrain", "pipeline", "sweep"])
        ),
        "flow_run_filter": filters.FlowRunFilter(
            end_time=filters.FlowRunFilterEndTime(before_=datetime.fromtimestamp(before, UTC))
        ),
    }
    offset = 0
    while page := client.read_flow_runs(**wanted, limit=_PAGE, offset=offset):
        offset += len(page)
        for run in page:
            place = str(run.parameters.get("root", ""))
            # Of a work pool the root is `.`: its deployment tells the repository.
            own = place == str(root) or (place == "." and resource(name) in run.tags)
            if own and run.state is not None and run.state.is_final():
                yield run


def _forget(client: Any, run: Any) -> None:
    from prefect.client.schemas import filters
    from prefect.exceptions import ObjectNotFound

    wanted = filters.ArtifactFilter(flow_run_id=filters.ArtifactFilterFlowRunId(any_=[run.id]))
    try:
        for artifact in client.read_artifacts(artifact_filter=wanted):
            client.delete_artifact(artifact.id)
        client.delete_flow_run(run.id)
    except ObjectNotFound:
        # Somebody else has been faster.
        return


def _newest(folder: Path) -> float:
    return max(map(_changed, (folder, *folder.rglob("*"))))


def _changed(path: Path) -> float:
    # Not of what a link names, which need not be there: wandb leaves links to logs.
    return path.lstat().st_mtime


def _named(root: Path, folder: Path) -> str:
    return f"{folder.relative_to(root)}, {_size(folder) / 1e6:.1f} MB"


def _counted(files: list[Path], what: str) -> str:
    return f"{len(files)} {what}, {sum(map(_size, files)) / 1e6:.1f} MB"


def _size(path: Path) -> int:
    """Bytes of the files of a folder, or of a file; links count nothing."""
    files = [path, *path.rglob("*")]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def main(argv: Sequence[str] | None = None) -> int:
    """Clean from the command line.

    Returns:
        The exit status; 1 when it could not be done, or not to the end.
    """
    parser = argparse.ArgumentParser(
        prog="python -m flows.clean",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--yes", action="store_true", help="remove it")
    parser.add_argument("--days", type=float, default=DAYS, help=f"younger stays ({DAYS:g})")
    parser.add_argument(
        "--unsent-days",
        type=float,
        default=math.inf,
        metavar="DAYS",
        help="W&B runs of which something is not sent go, too, when they are older (they stay)",
    )
    parser.add_argument(
        "--cache", action="store_true", help="clean DVC's cache even if there is no remote"
    )
    parser.add_argument(
        "--name", default=DEPLOYMENT, help=f"of the deployment, for its history ({DEPLOYMENT})"
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the repository's root")
    args = parser.parse_args(argv)
    if min(args.days, args.unsent_days) < 0:
        parser.error("--days, --unsent-days: at least 0")
    return exit_code(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    root = args.root.resolve()
    num = 0
    with locked(root), lock_file(root, "timmflow-sweep.lock", "sweep"), workspace_lock(root):
        if read_record(root, "decided"):
            raise FlowError(
                f"{root}: a new version is decided on and not in place yet; "
                "`python -m flows.retrain` finishes that"
            )
        cache = args.cache or bool(dvc(root, "remote", "list"))
        own = items(root, args.days, args.unsent_days, cache)
        # One after the other: what DVC's cache needs is known when the worktrees are gone.
        for item in chain(own, history(root, args.days, args.name)):
            num += 1
            print(item.what, flush=True)
            if args.yes:
                item.remove()
    if not cache:
        print("DVC's cache is left alone: there is no remote that has older data; see --cache")
    if not num:
        print("nothing to remove")
    elif not args.yes:
        print("nothing was removed; --yes does it")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
