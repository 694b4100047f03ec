"""What a retraining does with data, in its worktree: brings it, sees that it is whole, merges.

Each does its work with commands that cannot outlive it, and can be done again by the next run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.errors import DataError
from components.files import read_json
from flows.cache_check import find_damaged, set_aside
from flows.commits import lock_outs, pointer_outs
from flows.dvc_stage import StageOutput, run_again, run_guarded
from flows.flow_errors import FlowError, masked
from flows.progress import OnLine
from flows.retrain_site import Site
from flows.sweep_trial import hash_of
from tasks.layout import Layout
from tasks.model_registry import Registry
from tasks.repository import dvc_command, git

# Waits before a step that needs the network is tried again.
RETRY_SECONDS = (5.0, 20.0)


@dataclass
class DataSteps:
    """A worktree of a retraining.

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

    def bring_data(self, on_line: OnLine) -> None:
        """Have the recorded data here, whole; imported data as it is at its source today.

        Raises:
            FlowError: it is neither in the cache nor at a remote, or damaged.
        """
        pointers = git(self.tree, "ls-files", "*.dvc").splitlines()
        imported = [name for name in pointers if _is_import(self.tree / name)]
        own = [name for name in pointers if name not in imported]
        if self.site.pointer() == "dvc.lock":
            own.append(self.site.params.base.data)
        if imported:
            self.dvc(["update", *imported], on_line, RETRY_SECONDS)
        if own:
            self._from_cache_or_remote(own, on_line)
        self._mend(pointers, on_line)

    def _mend(self, pointers: list[str], on_line: OnLine) -> None:
        """Replace what is damaged in the cache by what the remote has."""
        cache, aside = self.site.cache, self.site.folder / "damaged"
        found = find_damaged(cache, self._outs(pointers))
        if not found:
            return
        names = ", ".join(item.name for item in found[:5]) + (", …" if found[5:] else "")
        if not Registry(self.tree).has_remote():
            raise FlowError(
                f"damaged in DVC's cache: {names}: other content than when it was recorded, and "
                f"there is no remote to bring it from (the first is {found[0].file}); put it "
                "there as it was, or record the data anew with `dvc add`"
            )
        on_line(f"damaged in DVC's cache, brought anew from the remote: {names}")
        set_aside(found, self.tree, aside)
        self._from_cache_or_remote([item.out for item in found], on_line)
        if find_damaged(cache, self._outs(pointers)):
            set_aside(found, self.tree, aside)
            raise FlowError(f"damaged in DVC's cache, and at its remote: {names}; see {aside}")

    def _outs(self, pointers: list[str]) -> list[dict[str, Any]]:
        """The outputs that `.dvc` files name, and the data, where a stage makes it."""
        outs: list[dict[str, Any]] = []
        for pointer in pointers:
            outs += pointer_outs(pointer, yaml_file(self.tree / pointer))
        return outs + (self._made_data() if self.site.pointer() == "dvc.lock" else [])

    def _made_data(self) -> list[dict[str, Any]]:
        """The output of a stage that is the data, or that it lies in."""
        return list(filter(self.site.holds_data, lock_outs(yaml_file(self.tree / "dvc.lock"))))

    def merge_batches(self, batches: dict[str, str], on_line: OnLine) -> None:
        """Offer each batch to the data; a refused one stays where it is, and the others go on.

        Args:
            batches: by name.
            on_line: takes what is printed.

        Raises:
            FlowError: there are some, and DVC does not track the data; or merging was ended.
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
        if any(out["path"] == facts for out in lock_outs(yaml_file(self.tree / "dvc.lock"))):
            # With it only new images are decoded; without, all.
            run_guarded(
                dvc_command("checkout", "--quiet", facts),
                self.tree,
                on_line=on_line,
                **self.options,
            )
        for name in batches:
            words = ["tasks.incoming", str(self.site.incoming / name), "--merge"]
            status, output = self.python(words, on_line)
            report: dict[str, Any] = {}
            with suppress(DataError):
                report = read_json(layout.root / "reports" / "incoming" / f"{name}.json")
            # Neither is the batch's fault: the data may have changed, and not been recorded.
            if status > 128 or (status != 0 and report.get("verdict") in ("merged", "nothing-new")):
                raise FlowError(f"batch {name}: {output.reason(status)}")
            if status != 0:
                self.refused[name] = masked(_refusal(report) or output.reason(status))
                on_line(f"batch {name} refused: {self.refused[name]}")
            elif report.get("verdict") == "merged":
                self.merged.append(name)

    def data_version(self) -> str:
        """What DVC knows the data by, here and now; empty where it does not."""
        pointer = self.site.pointer()
        if pointer is None:
            return ""
        if pointer != "dvc.lock":
            return hash_of(yaml_file(self.tree / pointer).get("outs"))
        return hash_of(self._made_data())

    def restore(self, on_line: OnLine) -> None:
        """Have here all that `dvc.lock` and the `.dvc` files name."""
        self._from_cache_or_remote([], on_line)

    def python(self, words: list[str], on_line: OnLine) -> tuple[int, StageOutput]:
        """Exit status and output of a module that is run in the worktree."""
        output = StageOutput(words[0].removeprefix("tasks."))

        def heard(line: str) -> None:
            output.add(line)
            on_line(line)

        command = [sys.executable, "-m", *words]
        return run_guarded(command, self.tree, on_line=heard, **self.options), output

    def _from_cache_or_remote(self, targets: list[str], on_line: OnLine) -> None:
        try:
            self.dvc(["checkout", "--force", *targets], on_line)
        except FlowError:
            if not Registry(self.tree).has_remote():
                raise
            self.dvc(["pull", "--force", *targets], on_line, RETRY_SECONDS)

    def dvc(self, words: list[str], on_line: OnLine, waits: Sequence[float] = ()) -> None:
        """Run a command of DVC's in the worktree, again after each of some waits in seconds.

        Raises:
            FlowError: it failed each time.
        """
        command = dvc_command(*words)
        run_again(command, f"dvc {words[0]}", self.tree, on_line, waits, self.options)


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
    return bool(yaml_file(pointer).get("deps"))


def yaml_file(path: Path) -> dict[str, Any]:
    """What a YAML file holds; empty where there is none.

    Raises:
        FlowError: it is faulty.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise FlowError(f"{path}: not valid YAML: {error}") from None
    return tree if isinstance(tree, dict) else {}
