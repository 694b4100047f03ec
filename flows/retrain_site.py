"""What a retraining starts from, what it remembers, and how it can tell that nothing is new.

Everything of it lies in `.dvc/tmp/retrain`: the worktree while it is at work, `last/` with what the
last one found, and two records. `done.json` names what the last one was made of. `decided.json` is
there from the moment a new version is decided on until it is in place: a run that finds it finishes
what another, which was killed, had begun. Either may be lost; then work is done again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.errors import DataError, RepositoryError
from components.files import read_json, write_json
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
        head: the commit that is checked out there: whose code and parameters count.
        tip: the last commit of the branch of retraining; None: there is none yet.
        start: what the new work begins with: that of the two that holds the other, or else the tip,
            into which the head has to be merged.
        params: those of `start`.
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
        return data + ([pretrained] if isinstance(pretrained, str) else [])

    def pointer(self) -> str | None:
        """What records the data for DVC: its `.dvc` file, or `dvc.lock`; None: nothing does."""
        data = Path(self.params.base.data)
        if data.is_absolute() or ".." in data.parts:
            return None
        files = set(git(self.root, "ls-tree", "-r", "--name-only", self.start).splitlines())
        for folder in (data, *data.parents[:-1]):
            name = folder.with_name(f"{folder.name}.dvc").as_posix()
            if name in files:
                return name
        lock = at(self.root, self.start, "dvc.lock") if "dvc.lock" in files else {}
        return "dvc.lock" if data.as_posix() in outputs(lock) else None

    def has_imports(self) -> bool:
        """Whether data is imported, so that only a look at its source tells if it is new."""
        names = git(self.root, "ls-tree", "-r", "--name-only", self.start).splitlines()
        return any(
            name.endswith(".dvc") and bool(at(self.root, self.start, name).get("deps"))
            for name in names
        )

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
    head = head_commit(root)
    try:
        git(root, "var", "GIT_COMMITTER_IDENT")
    except RepositoryError:
        raise FlowError(
            f"{root}: git does not know who commits: git config user.name NAME and user.email MAIL"
        ) from None
    branch = _params(root, head).retrain.branch
    for block in git(root, "worktree", "list", "--porcelain").split("\n\n"):
        lines = block.splitlines()
        if f"branch refs/heads/{branch}" in lines:
            raise FlowError(
                f"retrain.branch = {branch}: is checked out in {lines[0].partition(' ')[2]}, where "
                "nothing may change: check out another one there, or name another here"
            )
    tip: str | None = git(root, "for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}")
    tip = tip or None
    start = head if tip is None or is_ancestor(root, tip, head) else tip
    return Site(root, head, tip, start, _params(root, head), cache_dir(root))


def incoming_folder(root: Path) -> Path:
    """The folder of new batches, by the committed parameters.

    Raises:
        FlowError: it is no repository with parameters.
    """
    return _incoming(root, _params(root, head_commit(root)))


def batches_in(folder: Path) -> dict[str, str]:
    """Name to fingerprint of each batch; one whose name begins with a dot is not there yet."""
    return {
        path.name: fingerprint(path)
        for path in sorted(folder.glob("*"))
        if path.is_dir() and not path.name.startswith(".")
    }


def clear(site: Site) -> None:
    """Remove what a retraining that was killed has left; call with the lock held.

    Raises:
        FlowError: its worktree is in use.
    """
    remove_left_over(site.root, site.tree, site.resume)
    common = Path(git(site.root, "rev-parse", "--path-format=absolute", "--git-common-dir"))
    locks = [common / f"{site.branch}.lock", *(common / "refs/tags").glob(f"{ARTIFACT}*.lock")]
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


def is_ancestor(root: Path, old: str, new: str) -> bool:
    """Whether a commit holds all of another."""
    return git(root, "rev-list", "--count", old, f"^{new}") == "0"


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


def outputs(dvc_lock: Mapping[str, Any]) -> set[str]:
    """Paths that a `dvc.lock` has outputs at."""
    stages = (dvc_lock.get("stages") or {}).values()
    return {out["path"] for stage in stages for out in stage.get("outs") or []}


def small_outputs(dvc_yaml: Mapping[str, Any]) -> list[str]:
    """Outputs that are for git and not for DVC's cache: metrics, plots, small reports."""
    found = []
    for stage in (dvc_yaml.get("stages") or {}).values():
        for kind in ("outs", "metrics", "plots"):
            for item in stage.get(kind) or []:
                if isinstance(item, dict):
                    found += [path for path, how in item.items() if how.get("cache") is False]
    return found


def fingerprint(path: Path) -> str:
    """A hash of the names, sizes and times of a folder's files, or of a file's."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    known = []
    for file in files:
        with suppress(OSError):  # gone this very moment: as if it had never been
            about = file.stat()
            known.append([str(file.relative_to(path)), about.st_size, about.st_mtime_ns])
    return hash_of(known)


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
    for line in git(root, "ls-tree", "-r", commit).splitlines():
        path = line.partition("\t")[2]
        inside = any(path == name or path.startswith(f"{name}/") for name in needed)
        if inside or path == "params.yaml" or path.endswith(".dvc"):
            lines.append(line)
    return hash_of(lines)
