"""One trial of a sweep: a worktree of its own, `dvc repro` of training and evaluation, figures.

What a trial needs is plain data, so that a worker on another machine can run it too; there the
repository must be seen under the same path.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from components.errors import DataError, TimmflowError
from components.files import read_json, sha256, write_json
from flows.dvc_stage import checkout_stage, run_stage
from flows.flow_errors import FlowError
from flows.gpu_slots import gpu_slot
from flows.lease import LeaseWatch
from flows.worktree import cache_dir, head_commit, worktree
from tasks.layout import Layout
from tasks.params import Params, loads
from tasks.repository import git

PREPARING = ("validate", "preprocess")
MEASURING = ("train", "evaluate")
# The parameters that decide what a stage of the sweep does.
_OF_DATA = ("base", "validate", "preprocess")
_OF_TRIAL = (*_OF_DATA, "train", "evaluate")


@dataclass(frozen=True)
class Site:
    """What all trials of a sweep share.

    Args:
        root: the user's repository.
        commit: whose code the trials run.
        code: a hash of what of that commit the stages depend on.
        cache: DVC's.
        token: of the sweep's lease; see `flows.lease`.
        env: variables for the stages.
    """

    root: Path
    commit: str
    code: str
    cache: Path
    token: str
    env: dict[str, str]

    @property
    def folder(self) -> Path:
        """Everything of sweeps that is no result."""
        return self.root / ".dvc" / "tmp" / "sweep"

    @property
    def trees(self) -> Path:
        """Worktrees at work."""
        return self.folder / "trees"

    @property
    def lease(self) -> Path:
        """Says that the sweep is still on."""
        return self.folder / "lease"

    @property
    def resume(self) -> Path:
        """Checkpoints of trials that were interrupted."""
        return self.folder / "resume"

    def done(self, key: str) -> Path:
        """What `run_trial` keeps of a finished trial: `seconds`, `figures`."""
        return self.folder / "done" / f"{key}.json"


@dataclass(frozen=True)
class Prepared:
    """Data brought to the form that trials train on, in DVC's cache.

    Args:
        lock: the text of `dvc.lock` that names it.
        data: a hash of it.
        failure: why it could not be had; the others are empty then.
    """

    lock: str = ""
    data: str = ""
    failure: str = ""


@dataclass(frozen=True)
class Trial:
    """What is to be tried.

    Args:
        number: in the order of the sweep, from 1.
        values: by dotted key.
        params: the text of its parameter file.
    """

    number: int
    values: dict[str, Any]
    params: str

    @property
    def settings(self) -> Params:
        """Its parameters, checked."""
        return loads(self.params, Path(f"trial {self.number}"))

    @property
    def data_key(self) -> str:
        """Names what it needs prepared: trials with the same share it."""
        return hash_of(self._sections(_OF_DATA))

    @property
    def params_key(self) -> str:
        """Names what it does, with the same data and code."""
        return hash_of(self._sections(_OF_TRIAL))

    def _sections(self, names: tuple[str, ...]) -> dict[str, Any]:
        tree = self.settings.model_dump(mode="json", by_alias=True)
        return {name: tree[name] for name in names}


@dataclass(frozen=True)
class Row:
    """What became of a trial.

    Args:
        number, values: the trial's.
        status: `done`; `known`, from an earlier sweep; `failed`; `stopped`, with the sweep.
        key: a hash of its parameters, data and code; empty where it did not come to that.
        seconds: wall clock of its stages.
        figures: `metrics/train.json`, and under `evaluate` `metrics/evaluate.json`.
        reason: why it failed.
    """

    number: int
    values: dict[str, Any]
    status: Literal["done", "known", "failed", "stopped"]
    key: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    @property
    def score(self) -> float | None:
        """The main metric on val of the best epoch; higher is better."""
        return self.figures.get("best")


def code_files(
    root: Path, commit: str, needed: Sequence[str] = (*PREPARING, *MEASURING)
) -> list[str]:
    """What of a commit some stages depend on, `dvc.yaml` included; files and folders.

    Raises:
        FlowError: its `dvc.yaml` does not have these stages.
        RepositoryError: it has none.
    """
    name = f"dvc.yaml of {commit[:8]}"
    stages = _stages(git(root, "show", f"{commit}:dvc.yaml"), name)
    files = {"dvc.yaml"}
    for stage in needed:
        if stage not in stages:
            raise FlowError(f"{name} has no stage {stage}")
        deps = stages[stage].get("deps", [])
        files |= {dep for dep in deps if not dep.startswith(("$", "..", "/"))}
    return sorted(files)


def make_site(root: Path, token: str, threads: int) -> Site:
    """What trials of the commit that is checked out share.

    Args:
        root: the user's repository.
        token: of the sweep's lease.
        threads: CPU threads of each trial; 0: as many as torch takes.

    Raises:
        TimmflowError: it is not the root of a git repository with a commit and the pipeline.
    """
    commit = head_commit(root)
    code = hash_of(git(root, "ls-tree", "-r", commit, "--", *code_files(root, commit)))
    env = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    return Site(root, commit, code, cache_dir(root), token, env)


def _stages(text: str, name: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise FlowError(f"{name}: not valid YAML: {error}") from None
    stages = tree.get("stages") if isinstance(tree, dict) else None
    if not isinstance(stages, dict):
        raise FlowError(f"{name}: has no stages")
    return stages


def prepare(trial: Trial, site: Site, on_line: Callable[[str], None]) -> Prepared:
    """Have DVC's cache hold what the trials with this trial's data parameters train on."""
    name = f"data-{trial.data_key}"
    try:
        with _workplace(name, trial, site) as place:
            for stage in PREPARING:
                place.run(stage, on_line)
            lock = (place.tree / "dvc.lock").read_text(encoding="utf-8")
            outs = _stages(lock, "dvc.lock")["preprocess"]["outs"]
            return Prepared(lock, hash_of(outs))
    except TimmflowError as error:
        return Prepared(failure=str(error))


def trial_key(trial: Trial, prepared: Prepared, site: Site) -> str:
    """A hash of a trial's parameters, data and code: with the same, it has the same figures."""
    return hash_of([trial.params_key, _weights(trial, site), prepared.data, site.code])


def run_trial(trial: Trial, prepared: Prepared, site: Site, on_line: Callable[[str], None]) -> Row:
    """Train and measure with a trial's parameters, unless that has been done before."""
    row = Row(trial.number, trial.values, "failed")
    if prepared.failure:
        return _not_done(row, prepared.failure, site)
    key = trial_key(trial, prepared, site)
    row = replace(row, key=key)
    known = site.done(key)
    if known.exists():
        try:
            kept = read_json(known)
            return replace(row, status="known", seconds=kept["seconds"], figures=kept["figures"])
        except (DataError, KeyError, TypeError):
            known.unlink()  # damaged: it is run again
    started = time.perf_counter()
    try:
        with _workplace(f"trial-{key}", trial, site, prepared.lock) as place:
            checkout_stage("preprocess", place.tree, on_line=on_line, **place.options)
            for stage in MEASURING:
                place.run(stage, on_line)
            layout = Layout(place.tree)
            figures = read_json(layout.metrics("train"))
            if not isinstance(figures.get("best"), int | float):
                raise FlowError(f"{layout.metrics('train')}: has no number `best` to compare")
            figures["evaluate"] = read_json(layout.metrics("evaluate"))
    except TimmflowError as error:
        row = replace(row, seconds=time.perf_counter() - started)
        return _not_done(row, str(error), site)
    seconds = time.perf_counter() - started
    write_json(known, {"seconds": seconds, "figures": figures})
    shutil.rmtree(site.resume / f"trial-{key}", ignore_errors=True)
    return replace(row, status="done", figures=figures, seconds=seconds)


def _not_done(row: Row, reason: str, site: Site) -> Row:
    if LeaseWatch(site.lease, site.token).ended():
        return replace(row, status="stopped")  # whatever it says of it
    return replace(row, reason=reason)


@dataclass(frozen=True)
class _Workplace:
    tree: Path
    options: dict[str, Any]

    def run(self, stage: str, on_line: Callable[[str], None]) -> None:
        run_stage(stage, self.tree, on_line=on_line, **self.options)


@contextmanager
def _workplace(
    name: str, trial: Trial, site: Site, dvc_lock: str | None = None
) -> Iterator[_Workplace]:
    """A worktree in which the stages find what they would find in the user's."""
    watch = LeaseWatch(site.lease, site.token)
    if watch.ended():
        raise FlowError("the sweep has ended")
    params = trial.settings
    links = [params.base.data]
    if isinstance(params.train.pretrained, str):
        links.append(params.train.pretrained)
    folder, kept = site.trees / name, site.resume / name
    gpus = gpu_slot(site.folder / "gpus", params.train.devices, os.environ)
    at_work = worktree(site.root, folder, site.commit, site.cache, links, kept)
    with gpus as seen, at_work as (tree, lock):
        (tree / "params.yaml").write_text(trial.params, encoding="utf-8")
        if dvc_lock is not None:
            (tree / "dvc.lock").write_text(dvc_lock, encoding="utf-8")
        if os.environ.get("WANDB_MODE") != "disabled":
            # Runs are published from where the user's are.
            (site.root / "wandb").mkdir(exist_ok=True)
            (tree / "wandb").symlink_to(site.root / "wandb")
        # DVC keeps what it knows of files for each repository that there ever was.
        env = {**site.env, **seen, "DVC_SITE_CACHE_DIR": str(tree / ".dvc" / "tmp" / "site")}
        yield _Workplace(tree, {"env": env, "lock": lock, "stopped": watch.ended})


def _weights(trial: Trial, site: Site) -> str:
    """Of local weights, their hash: parameters name the file alone."""
    name = trial.settings.train.pretrained
    path = site.root / name if isinstance(name, str) else None
    return sha256(path) if path is not None and path.is_file() else ""


def hash_of(value: Any) -> str:
    """A short name for a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
