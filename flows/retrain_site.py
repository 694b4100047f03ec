"""What a retraining starts from, what it remembers, and how it can tell that nothing is new.

Everything of it lies in `.dvc/tmp/retrain`: the worktree while it is at work, `last/` with what the
last one found, and two records. `done.json` names what the last one was made of. `decided.json` is
there from the moment a new version is decided on until it is in place: a run that finds it finishes
what another, which was killed, had begun. Either may be lost; then work is done again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from components.errors import DataError, RepositoryError
from components.files import read_json, write_json
from flows.commits import at, files, from_root, is_ancestor, lock_outs, pointer_outs, ref
from flows.flow_errors import FlowError
from flows.sweep_trial import code_files, hash_of
from flows.worktree import cache_dir, head_commit, remove_left_over
from tasks.layout import STAGES
from tasks.params import Params, loads
from tasks.registry_tags import ARTIFACT
from tasks.repository import git

# Of the records: those of another one are as good as lost.
_FORMAT = 1
# No git command of a retraining takes longer to write a reference.
_STALE_LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Site:
    """Where and from what a repository is retrained.

    Args:
        root: the user's repository.
        head: the commit that is checked out there, or has followed it at `retrain.git_remote`:
            whose code and parameters count.
        tip: the last commit of the branch of retraining; None: there is none yet.
        start: what the new work begins with: that of the two that holds the other, or else the tip,
            into which the head has to be merged.
        params: those of `head`.
        cache: DVC's.
    """

    root: Path
    head: str
    tip: str | None
    start: str
    params: Params
    cache: Path

    @property
    def folder(self) -> Path:
        """Everything of retraining that is no result."""
        return folder_of(self.root)

    @property
    def tree(self) -> Path:
        """The worktree; its name is unique among the repository's."""
        return self.folder / "tree" / "timmflow-retrain"

    @property
    def resume(self) -> Path:
        """Checkpoints of a training that was interrupted."""
        return self.folder / "resume"

    @property
    def branch(self) -> str:
        """Full name of the branch of retraining."""
        return f"refs/heads/{self.params.retrain.branch}"

    @property
    def needs_merge(self) -> bool:
        """Whether neither head nor tip holds the other."""
        return self.start == self.tip and not is_ancestor(self.root, self.head, self.start)

    @property
    def incoming(self) -> Path:
        """Folder of new batches."""
        return _incoming(self.root, self.params)

    def batches(self) -> dict[str, str]:
        """Name to fingerprint of each batch; one whose name begins with a dot is not there yet."""
        return batches_in(self.incoming)

    def links(self) -> list[str]:
        """What the stages read and git and DVC do not carry."""
        data = [] if self.pointer() is not None else [self.params.base.data]
        pretrained = self.params.train.pretrained
        return data + ([pretrained] if isinstance(pretrained, str) else []) + self._sources()

    def _sources(self) -> list[str]:
        """Where imported data comes from, if it lies beside the repository."""
        found = []
        for name, content in self._pointers.items():
            paths = (dep["path"] for dep in content.get("deps") or [] if "repo" not in dep)
            found += [from_root(name, content, path) for path in paths]
        return [path for path in found if path.startswith("../")]

    def pointer(self) -> str | None:
        """What records the data for DVC: a `.dvc` file, or `dvc.lock`; None: nothing does."""
        for name, content in self._pointers.items():
            if any(self.holds_data(out) for out in pointer_outs(name, content)):
                return name
        commit = self._files.get("dvc.lock")
        lock = at(self.root, commit, "dvc.lock") if commit else {}
        return "dvc.lock" if any(map(self.holds_data, lock_outs(lock))) else None

    def holds_data(self, out: Mapping[str, Any]) -> bool:
        """Whether an output is the data, or a folder that it lies in."""
        data = PurePosixPath(self.params.base.data)
        inside = not data.is_absolute() and ".." not in data.parts
        return inside and data.is_relative_to(out["path"])

    def has_imports(self) -> bool:
        """Whether data is imported, so that only a look at its source tells if it is new."""
        return any(content.get("deps") for content in self._pointers.values())

    @cached_property
    def _pointers(self) -> dict[str, dict[str, Any]]:
        """The `.dvc` files, by name."""
        return {
            name: at(self.root, commit, name)
            for name, commit in self._files.items()
            if name.endswith(".dvc")
        }

    @cached_property
    def _files(self) -> dict[str, str]:
        """The files that the work has to do with, each with the commit that has it.

        What has yet to be merged counts: data that only the head records must not be linked to.
        """
        ours = files(self.root, self.start)
        if not self.needs_merge:
            return dict.fromkeys(ours, self.start)
        theirs, base = files(self.root, self.head), dict[str, str]()
        with suppress(RepositoryError):  # unrelated: merging will say so
            base = files(self.root, git(self.root, "merge-base", self.start, self.head))
        found = {}
        for path in sorted(ours.keys() | theirs.keys()):
            # What the branch has left as it was, or away, is as the head has it.
            left = ours.get(path) == base.get(path)
            if path in (theirs if left else ours):
                found[path] = self.head if left else self.start
        return found

    def inputs(self) -> dict[str, Any]:
        """What is not in commits: batches, and data and weights that only lie here."""
        linked = {name: fingerprint(self.root / name) for name in self.links()}
        return {"batches": self.batches(), "linked": linked}

    def key(
        self, inputs: Mapping[str, Any], tip: str | None, champion: str, settings: Sequence[Any]
    ) -> str:
        """Names all that decides what a retraining gives: with the same, nothing is new.

        Args:
            inputs: what `inputs` gave before the work began.
            tip: of the branch, when it was over.
            champion: the version in production then; empty: none.
            settings: of the run, which are in no file.
        """
        commits = [_essence(self.root, commit) for commit in (self.head, tip) if commit]
        return hash_of([_FORMAT, commits, inputs, champion, *settings])


def folder_of(root: Path) -> Path:
    """Where retraining keeps what is no result."""
    return root / ".dvc" / "tmp" / "retrain"


def open_site(root: Path) -> Site:
    """Look at a repository before anything is done.

    Raises:
        FlowError: it is no repository in which retraining can commit, with what has to change.
        ParamsError: the committed parameters are faulty.
    """
    head = _newest_head(root)
    try:
        git(root, "var", "GIT_COMMITTER_IDENT")
    except RepositoryError:
        raise FlowError(
            f"{root}: git does not know who commits: git config user.name NAME and user.email MAIL"
        ) from None
    params = _params(root, head)
    branch = params.retrain.branch
    for block in git(root, "worktree", "list", "--porcelain").split("\n\n"):
        lines = block.splitlines()
        if f"branch refs/heads/{branch}" in lines:
            raise FlowError(
                f"retrain.branch = {branch}: is checked out in {lines[0].partition(' ')[2]}, where "
                "nothing may change: check out another one there, or name another here"
            )
    tip = ref(root, f"refs/heads/{branch}")
    start = head if tip is None or is_ancestor(root, tip, head) else tip
    return Site(root, head, tip, start, params, cache_dir(root))


def incoming_folder(root: Path) -> Path:
    """The folder of new batches, by the committed parameters.

    Raises:
        FlowError: it is no repository with parameters.
    """
    return _incoming(root, _params(root, head_commit(root)))


def batches_in(folder: Path) -> dict[str, str]:
    """Name to fingerprint of each batch; one whose name begins with a dot is not there yet."""
    _, names, _ = next(os.walk(folder), ("", [], []))
    return {n: fingerprint(folder / n) for n in sorted(names) if not n.startswith(".")}


def clear(site: Site) -> None:
    """Remove what a retraining that was killed has left; call with the lock held.

    Raises:
        FlowError: its worktree is in use.
    """
    remove_left_over(site.root, site.tree, site.resume)
    common = Path(git(site.root, "rev-parse", "--path-format=absolute", "--git-common-dir"))
    locks = [common / f"{site.branch}.lock", *(common / "refs/tags").glob(f"{ARTIFACT}*.lock")]
    # Taking back tags writes that one too.
    locks.append(common / "packed-refs.lock")
    if remote := site.params.retrain.git_remote:
        locks += (common / "refs/remotes" / remote).rglob("*.lock")
    for lock in locks:
        with suppress(FileNotFoundError):
            if time.time() - lock.stat().st_mtime > _STALE_LOCK_SECONDS:
                lock.unlink()


def read_record(root: Path, name: str) -> dict[str, Any]:
    """`done` or `decided`; empty if there is none, or it is damaged."""
    try:
        record = read_json(folder_of(root) / f"{name}.json")
    except DataError:
        return {}
    return record if isinstance(record, dict) else {}


def write_record(root: Path, name: str, record: Mapping[str, Any]) -> None:
    """Write it in one step."""
    write_json(folder_of(root) / f"{name}.json", record)


def drop_record(root: Path, name: str) -> None:
    """Forget it."""
    (folder_of(root) / f"{name}.json").unlink(missing_ok=True)


def fingerprint(path: Path) -> str:
    """A hash of the names, sizes and times of a folder's files, or of a file's."""
    # Not `rglob`, which ends with an error where a folder goes while it is looked at.
    inside = sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    known = []
    for file in [path] if path.is_file() else inside:
        with suppress(OSError):  # gone this very moment: as if it had never been
            about = file.stat()
            known.append([str(file.relative_to(path)), about.st_size, about.st_mtime_ns])
    return hash_of(known)


def _newest_head(root: Path) -> str:
    """The commit that is checked out; where its branch has gone on at the git remote, that one."""
    head = head_commit(root)
    remote = _params(root, head).retrain.git_remote
    branch = git(root, "rev-parse", "--symbolic-full-name", "HEAD")
    if remote is None or branch == "HEAD":  # which no branch has
        return head
    theirs = ref(root, f"refs/remotes/{remote}/{branch.removeprefix('refs/heads/')}")
    return theirs if theirs and is_ancestor(root, head, theirs) else head


def _incoming(root: Path, params: Params) -> Path:
    return (root / params.retrain.incoming).resolve()


def _params(root: Path, commit: str) -> Params:
    try:
        text = git(root, "show", f"{commit}:params.yaml")
    except RepositoryError:
        raise FlowError(f"{root}: its commit {commit[:8]} has no params.yaml") from None
    return loads(text, Path(f"params.yaml of {commit[:8]}"))


def _essence(root: Path, commit: str) -> str:
    """A hash of what of a commit decides what the stages and the gate give."""
    needed = code_files(root, commit, STAGES)
    lines = []
    for path, blob in files(root, commit).items():
        inside = any(path == name or path.startswith(f"{name}/") for name in needed)
        if inside or path == "params.yaml" or path.endswith(".dvc"):
            lines.append(f"{blob}\t{path}")
    return hash_of(lines)
