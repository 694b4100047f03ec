"""The steps of a retraining, in its worktree; `flows.retrain` says in which order.

Each does its work with commands that cannot outlive it, and can be done again by the next run.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.errors import DataError
from components.files import read_json
from flows.dvc_stage import StageOutput, dvc, run_guarded
from flows.flow_errors import FlowError
from flows.progress import OnLine
from flows.retrain_site import (
    Site,
    at,
    drop_record,
    is_ancestor,
    outputs,
    small_outputs,
)
from flows.sweep_trial import hash_of
from flows.worktree import git, worktree
from tasks.gate import PROMOTE, REFUSE
from tasks.layout import Layout
from tasks.model_registry import Registry, Version, model_in

# Waits before a step that needs the network is tried again.
RETRY_SECONDS = (5.0, 20.0)
_MODEL = "models/model.onnx"
_KEPT = ("reports", "metrics", "plots")


@dataclass
class Retraining:
    """A retraining at work.

    Args:
        site: that it works for.
        tree: the root of its worktree.
        options: of every command: environment and lock.
        merged: names of the batches that are part of the data now.
        refused: name to reason of those that are not.
    """

    site: Site
    tree: Path
    options: dict[str, Any]
    merged: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def merge_head(self) -> None:
        """Bring what the user has committed since into the branch.

        Raises:
            FlowError: both have changed the same, other than what stages write.
        """
        site = self.site
        try:
            message = f"Merge {site.head[:8]} into {site.params.retrain.branch}"
            git(self.tree, "merge", "--quiet", "--no-ff", "-m", message, site.head)
        except FlowError as error:
            unmerged = git(self.tree, "diff", "--name-only", "--diff-filter=U").splitlines()
            written = {"dvc.lock", "reports/verdict.json"}
            written |= set(small_outputs(at(self.tree, "HEAD", "dvc.yaml")))
            others = [name for name in unmerged if name not in written]
            if others or not unmerged:
                raise FlowError(
                    f"branch {site.params.retrain.branch} and the commit checked out, "
                    f"{site.head[:8]}, do not merge ({', '.join(others) or error}): merge the "
                    "branch into yours by hand, and run this again"
                ) from None
            # Stages write them anew.
            git(self.tree, "checkout", "--ours", "--", *unmerged)
            git(self.tree, "add", "--", *unmerged)
            git(self.tree, "commit", "--quiet", "--no-edit")

    def bring_data(self, on_line: OnLine) -> None:
        """Have the recorded data here; imported data as it is at its source today.

        Raises:
            FlowError: it is neither in the cache nor at a remote.
        """
        pointers = git(self.tree, "ls-files", "*.dvc").splitlines()
        imported = [name for name in pointers if _is_import(self.tree / name)]
        own = [name for name in pointers if name not in imported]
        if self.site.pointer() == "dvc.lock":
            own.append(self.site.params.base.data)
        if imported:
            self._dvc(["update", *imported], on_line, RETRY_SECONDS)
        if own:
            self._from_cache_or_remote(own, on_line)

    def merge_batches(self, batches: dict[str, str], on_line: OnLine) -> None:
        """Offer each batch to the data; a refused one stays where it is, and the others go on.

        Args:
            batches: by name.
            on_line: takes what is printed.

        Raises:
            FlowError: there are some, and DVC does not track the data.
        """
        if not batches:
            return
        data = self.site.params.base.data
        if self.site.pointer() is None:
            raise FlowError(
                f"{self.site.params.retrain.incoming} has batches, but DVC does not track "
                f"base.data = {data}, so there can be no new version of it: `dvc add {data}` and "
                f"commit {data}.dvc"
            )
        layout = Layout(self.tree)
        facts = layout.facts.relative_to(self.tree).as_posix()
        if facts in outputs(_yaml(self.tree / "dvc.lock")):
            # With it only new images are decoded; without, all.
            run_guarded(
                dvc("checkout", "--quiet", facts), self.tree, on_line=on_line, **self.options
            )
        for name in batches:
            words = ["tasks.incoming", str(self.site.incoming / name), "--merge"]
            status, output = self._python(words, on_line)
            report: dict[str, Any] = {}
            with suppress(DataError):
                report = read_json(layout.root / "reports" / "incoming" / f"{name}.json")
            if status != 0:
                self.refused[name] = _refusal(report) or output.reason(status)
                on_line(f"batch {name} refused: {self.refused[name]}")
            elif report.get("verdict") == "merged":
                self.merged.append(name)

    def changed(self) -> bool:
        """Whether anything that git tracks is not as in the commit that the work began with."""
        return bool(git(self.tree, "status", "--porcelain", "--untracked-files=no"))

    def data_version(self) -> str:
        """What DVC knows the data by, here and now; empty where it does not."""
        pointer = self.site.pointer()
        if pointer is None:
            return ""
        if pointer != "dvc.lock":
            return hash_of(_yaml(self.tree / pointer).get("outs"))
        stages = _yaml(self.tree / pointer)["stages"].values()
        outs = [out for stage in stages for out in stage.get("outs") or []]
        return hash_of([out for out in outs if out["path"] == self.site.params.base.data])

    def model(self) -> str:
        """MD5 of the model that the stages have given.

        Raises:
            RegistryError: `dvc.yaml` or `dvc.lock` names none.
        """
        dvc_yaml, dvc_lock = _yaml(self.tree / "dvc.yaml"), _yaml(self.tree / "dvc.lock")
        return model_in(dvc_yaml, dvc_lock, "the retraining")[1]

    def gate(self, champion: Version | None, on_line: OnLine) -> tuple[bool, str]:
        """Compare the new model with the champion.

        Returns:
            Whether it may replace it, and the gate's verdict in a line.

        Raises:
            FlowError: they could not be compared.
        """
        words = ["tasks.gate", _MODEL]
        if champion is not None:
            target = self.tree / ".dvc" / "tmp" / f"{champion.name}.onnx"
            Registry(self.tree).fetch(champion.commit, target)
            words.append(str(target))
        said: list[str] = []

        def heard(line: str) -> None:
            said.append(line)
            on_line(line)

        status, output = self._python(words, heard)
        if status not in (PROMOTE, REFUSE):
            raise FlowError(output.reason(status))
        start = next((i for i, line in enumerate(said) if line.startswith("gate: ")), len(said))
        verdict = "; ".join(line.strip() for line in said[start:])
        return status == PROMOTE, re.sub("^gate: (promote|refuse): ", "", verdict)

    def commit(self, summary: str) -> str:
        """Commit what the stages and the gate have given; the branch does not show it yet."""
        wanted = [
            "dvc.lock",
            "reports/verdict.json",
            *small_outputs(_yaml(self.tree / "dvc.yaml")),
        ]
        # The worktree is our own: whatever git tracks in it and has changed is part of the result.
        git(self.tree, "add", "--update")
        git(self.tree, "add", "--force", "--", *(p for p in wanted if (self.tree / p).exists()))
        lines = [f"Retrain: {summary}", ""]
        lines += [f"Merged batch: {name}" for name in self.merged]
        lines += [f"Refused batch: {name}: {why}" for name, why in self.refused.items()]
        git(self.tree, "commit", "--quiet", "--allow-empty", "-m", "\n".join(lines))
        return git(self.tree, "rev-parse", "HEAD")

    def restore(self, on_line: OnLine) -> None:
        """Have here all that `dvc.lock` and the `.dvc` files name."""
        self._from_cache_or_remote([], on_line)

    def push(self, on_line: OnLine) -> None:
        """Send what the commit names to DVC's remote.

        Raises:
            FlowError: it cannot be sent.
        """
        self._dvc(["push"], on_line, RETRY_SECONDS)

    def move_branch(self, commit: str, tip: str | None) -> None:
        """Let the branch show a commit.

        Raises:
            FlowError: somebody else has moved it, away from `tip`.
        """
        branch = self.site.branch
        now = git(self.site.root, "for-each-ref", "--format=%(objectname)", branch)
        if now and is_ancestor(self.site.root, commit, now):
            return
        try:
            git(self.site.root, "update-ref", branch, commit, tip or "0" * 40)
        except FlowError:
            drop_record(self.site.root, "decided")
            raise FlowError(
                f"branch {self.site.params.retrain.branch} has been changed meanwhile; run this "
                "again"
            ) from None

    def publish(self, on_line: OnLine) -> str:
        """Send the runs to W&B, within the time set.

        Returns:
            Why not all were sent; empty: they were.
        """
        seconds = self.site.params.retrain.publish_seconds
        deadline = time.monotonic() + seconds
        said = [""]

        def heard(line: str) -> None:
            said.append(line.removeprefix("publish: "))
            on_line(line)

        command = [sys.executable, "-m", "tasks.publish", "--timeout", str(seconds)]

        def late() -> bool:
            return time.monotonic() > deadline

        status = run_guarded(command, self.tree, on_line=heard, stopped=late, **self.options)
        if status == 0:
            return ""
        return f"not done after {seconds} s" if late() else said[-1] or f"status {status}"

    def _python(self, words: list[str], on_line: OnLine) -> tuple[int, StageOutput]:
        output = StageOutput(words[0].removeprefix("tasks."))

        def heard(line: str) -> None:
            output.add(line)
            on_line(line)

        command = [sys.executable, "-m", *words]
        return run_guarded(command, self.tree, on_line=heard, **self.options), output

    def _from_cache_or_remote(self, targets: list[str], on_line: OnLine) -> None:
        try:
            self._dvc(["checkout", "--force", *targets], on_line)
        except FlowError:
            if not Registry(self.tree).has_remote():
                raise
            self._dvc(["pull", "--force", *targets], on_line, RETRY_SECONDS)

    def _dvc(self, words: list[str], on_line: OnLine, waits: tuple[float, ...] = ()) -> None:
        for wait in (*waits, None):
            output = StageOutput(words[0])

            def heard(line: str, output: StageOutput = output) -> None:
                output.add(line)
                on_line(line)

            status = run_guarded(dvc(*words), self.tree, on_line=heard, **self.options)
            if status == 0:
                return
            if wait is None:
                raise FlowError(f"dvc {words[0]}: {output.reason(status)}")
            on_line(f"dvc {words[0]} failed; again in {wait:g} s")
            time.sleep(wait)


@contextmanager
def at_work(site: Site, commit: str) -> Iterator[Retraining]:
    """A worktree for a retraining; what it found about data and model is kept in `last/`."""
    with worktree(site.root, site.tree, commit, site.cache, site.links(), site.resume) as place:
        tree, lock = place
        if os.environ.get("WANDB_MODE") != "disabled":
            # Runs are published from where the user's are.
            (site.root / "wandb").mkdir(exist_ok=True)
            (tree / "wandb").symlink_to(site.root / "wandb")
        # DVC keeps what it knows of files for each repository that there ever was.
        env = {"DVC_SITE_CACHE_DIR": str(tree / ".dvc" / "tmp" / "site")}
        try:
            yield Retraining(site, tree, {"env": env, "lock": lock})
        finally:
            _keep(tree, site.folder / "last")


def _keep(tree: Path, last: Path) -> None:
    """Copy the small files to look at, out of a worktree that is about to go."""
    shutil.rmtree(last, ignore_errors=True)
    for name in _KEPT:
        if (tree / name).is_dir():
            with suppress(OSError, shutil.Error):  # a full disk must not hide what went wrong
                shutil.copytree(tree / name, last / name, copy_function=shutil.copyfile)


def _refusal(report: dict[str, Any]) -> str:
    """Why a batch was refused, in a line; its report has it all."""
    if report.get("reason"):
        return str(report["reason"])
    errors = [item for item in report.get("findings", []) if item["severity"] == "error"]
    if not errors:
        return ""
    first = errors[0]
    more = f", and {len(errors) - 1} more errors" if len(errors) > 1 else ""
    return f"{first['where']}: {first['message']}{more}".removeprefix(": ")


def _is_import(pointer: Path) -> bool:
    return bool(_yaml(pointer).get("deps"))


def _yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise FlowError(f"{path}: not valid YAML: {error}") from None
    return tree if isinstance(tree, dict) else {}
