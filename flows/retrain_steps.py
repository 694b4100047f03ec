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
from dataclasses import replace
from pathlib import Path

from components.errors import RepositoryError
from components.files import write_json
from flows.cache_check import find_damaged, set_aside
from flows.commits import at, is_ancestor, ref, small_outputs
from flows.dvc_stage import run_guarded
from flows.flow_errors import FlowError
from flows.git_remote import share
from flows.progress import OnLine
from flows.retrain_data import RETRY_SECONDS, DataSteps, yaml_file
from flows.retrain_site import Site, drop_record
from flows.worktree import worktree
from tasks.gate import PROMOTE, REFUSE
from tasks.layout import Layout
from tasks.model_registry import Registry, Version, model_in
from tasks.repository import git

_MODEL = "models/model.onnx"
_KEPT = ("reports", "metrics", "plots")


class Retraining(DataSteps):
    """A retraining at work: what it does with data comes from `DataSteps`."""

    def merge_head(self) -> None:
        """Bring what the user has committed since into the branch.

        Raises:
            FlowError: both have changed the same, other than what stages write.
        """
        site = self.site
        try:
            message = f"Merge {site.head[:8]} into {site.params.retrain.branch}"
            git(self.tree, "merge", "--quiet", "--no-ff", "-m", message, site.head)
        except RepositoryError as error:
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
        self.site = replace(site, start=git(self.tree, "rev-parse", "HEAD"))
        # Should the merge record more than was to be seen before: DVC writes through a link.
        for link in set(site.links()) - set(self.site.links()):
            (self.tree / link).unlink(missing_ok=True)

    def drop_damaged(self, stage: str) -> bool:
        """Take out of the cache what is damaged there of a stage's outputs, so that it runs again.

        Returns:
            Whether there was any.
        """
        stages = yaml_file(self.tree / "dvc.lock").get("stages") or {}
        found = find_damaged(self.site.cache, (stages.get(stage) or {}).get("outs") or [])
        set_aside(found, self.tree, self.site.folder / "damaged")
        return bool(found)

    def changed(self) -> bool:
        """Whether anything that git tracks is not as in the commit that the work began with."""
        return bool(git(self.tree, "status", "--porcelain", "--untracked-files=no"))

    def model(self) -> str:
        """MD5 of the model that the stages have given.

        Raises:
            RegistryError: `dvc.yaml` or `dvc.lock` names none.
        """
        dvc_yaml, dvc_lock = yaml_file(self.tree / "dvc.yaml"), yaml_file(self.tree / "dvc.lock")
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
            registry = Registry(self.tree)
            path, md5 = registry.model_file(champion.commit)
            found = find_damaged(self.site.cache, [{"path": path, "md5": md5, "hash": "md5"}])
            if found and registry.has_remote():
                # The remote's comes instead; ours, should that be no better, is not lost.
                set_aside(found, self.tree / ".dvc" / "tmp", self.site.folder / "damaged")
            self.registry(["fetch", champion.name, str(target)], on_line)
            words.append(str(target))
        said: list[str] = []

        def heard(line: str) -> None:
            said.append(line)
            on_line(line)

        status, output = self.python(words, heard)
        if status not in (PROMOTE, REFUSE):
            raise FlowError(output.reason(status))
        # For the page and for W&B.
        write_json(
            Layout(self.tree).retraining,
            {
                "champion": champion.name if champion else "",
                "commit": champion.commit if champion else "",
                "merged": self.merged,
                "refused": self.refused,
            },
        )
        if "report" in yaml_file(self.tree / "dvc.yaml")["stages"]:
            # The page begins with the gate's verdict, which cannot be an input of the stage: the
            # gate judges what the stages have given, and may not come to a verdict, or judge the
            # same model anew beside another champion. So the stage has left a page without one,
            # and this writes it again.
            self.dvc(["repro", "--force", "--single-item", "report"], on_line)
        self._record(on_line)
        start = next((i for i, line in enumerate(said) if line.startswith("gate: ")), len(said))
        verdict = "; ".join(line.strip() for line in said[start:])
        return status == PROMOTE, re.sub("^gate: (promote|refuse): ", "", verdict)

    def _record(self, on_line: OnLine) -> None:
        """Leave the verdict and what led to it for W&B; that it cannot be done is said, no more."""
        if os.environ.get("WANDB_MODE") == "disabled":
            return
        self.python(["tasks.review", str(Layout(self.tree).retraining)], on_line)

    def commit(self, summary: str) -> str:
        """Commit what the stages and the gate have given; the branch does not show it yet."""
        wanted = [
            "dvc.lock",
            "reports/verdict.json",
            *small_outputs(yaml_file(self.tree / "dvc.yaml")),
        ]
        # The worktree is our own: whatever git tracks in it and has changed is part of the result.
        git(self.tree, "add", "--update")
        git(self.tree, "add", "--force", "--", *(p for p in wanted if (self.tree / p).exists()))
        lines = [f"Retrain: {summary}", ""]
        lines += [f"Merged batch: {name}" for name in self.merged]
        lines += [f"Refused batch: {name}: {why}" for name, why in self.refused.items()]
        git(self.tree, "commit", "--quiet", "--allow-empty", "-m", "\n".join(lines))
        return git(self.tree, "rev-parse", "HEAD")

    def push(self, on_line: OnLine) -> None:
        """Send what the commit names to DVC's remote.

        Raises:
            FlowError: it cannot be sent.
        """
        self.dvc(["push"], on_line, RETRY_SECONDS)

    def registry(self, words: list[str], on_line: OnLine) -> Registry:
        """Have `python -m tasks.registry` do something; gives the registry as it is then.

        A command, not a call: DVC's remote may hang, and no child of it must outlive the step.

        Raises:
            FlowError: it could not be done.
        """
        status, output = self.python(["tasks.registry", *words], on_line)
        if status != 0:
            raise FlowError(output.reason(status))
        return Registry(self.tree)

    def move_branch(self, commit: str, tip: str | None) -> None:
        """Let the branch show a commit.

        Raises:
            FlowError: somebody else has moved it, away from `tip`.
        """
        branch = self.site.branch
        now = ref(self.site.root, branch)
        if now and is_ancestor(self.site.root, commit, now):
            return
        try:
            git(self.site.root, "update-ref", branch, commit, tip or "0" * 40)
        except RepositoryError:
            drop_record(self.site.root, "decided")
            raise FlowError(
                f"branch {self.site.params.retrain.branch} has been changed meanwhile; run this "
                "again"
            ) from None

    def share(self, on_line: OnLine) -> None:
        """Send branch and tags to the git remote.

        Raises:
            FlowError: it does not take them; `withdraw` then takes the version back.
        """
        share(self.site, self.options, on_line, RETRY_SECONDS)

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

        # It ends by itself a little earlier, to say what is left.
        command = [sys.executable, "-m", "tasks.publish", "--timeout", f"{0.9 * seconds:g}"]

        def late() -> bool:
            return time.monotonic() > deadline

        status = run_guarded(command, self.tree, on_line=heard, stopped=late, **self.options)
        if status == 0:
            return ""
        return f"not done after {seconds} s" if late() else said[-1] or f"status {status}"


@contextmanager
def at_work(site: Site) -> Iterator[Retraining]:
    """A worktree for a retraining; what it found about data and model is kept in `last/`."""
    commit, links = site.start, site.links()
    with worktree(site.root, site.tree, commit, site.cache, links, site.resume) as place:
        tree, lock = place
        if os.environ.get("WANDB_MODE") != "disabled":
            # Runs are published from where the user's are.
            (site.root / "wandb").mkdir(exist_ok=True)
            (tree / "wandb").symlink_to(site.root / "wandb")
        group = f"retrain-{commit[:8]}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        env = {
            # DVC keeps what it knows of files for each repository that there ever was.
            "DVC_SITE_CACHE_DIR": str(tree / ".dvc" / "tmp" / "site"),
            "WANDB_RUN_GROUP": os.environ.get("WANDB_RUN_GROUP") or group,
        }
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
