"""The order of a retraining: from what is new to a version in production, step by step.

`flows.retrain` runs the steps as Prefect tasks. Nothing here knows of Prefect.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

from components.errors import RepositoryError
from flows.commits import is_ancestor, ref
from flows.flow_errors import FlowError, StageFailed
from flows.git_remote import fetch, withdraw
from flows.progress import OnLine, Work
from flows.retrain_data import RETRY_SECONDS
from flows.retrain_site import (
    Site,
    clear,
    drop_record,
    open_site,
    read_record,
    write_record,
)
from flows.retrain_steps import Retraining, at_work
from flows.workspace_lock import lock_file
from tasks.layout import STAGES
from tasks.model_registry import PRODUCTION, Registry, Version
from tasks.repository import git

Promote = Literal["automatic", "review"]
# Steps that wait for others: they may fail again and again, and then succeed.
_SENDING = ("push", "share")


class Steps(Protocol):
    """Runs steps one after the other, and tells of them."""

    def begin(self, site: Site) -> None:
        """Told before the first step, and again when more has been fetched."""

    def do(self, name: str, work: Work) -> None:
        """Do a step; `work` gives its outcome and headline. What it raises ends all."""

    def stage(self, name: str, retraining: Retraining) -> str:
        """Run a stage of the pipeline in the worktree; gives its outcome."""


def locked(root: Path) -> Any:
    """Hold the right to retrain a repository for the length of a block.

    Raises:
        FlowError: another process holds it, or this is no DVC repository.
    """
    return lock_file(root, "timmflow-retrain.lock", "retraining")


def last_if_nothing_new(root: Path, promote: Promote | None) -> dict[str, Any] | None:
    """How the last retraining ended, if nothing is new since; a look that takes a second.

    Call with the lock held: what a killed one has left is removed, in any case. Whether something
    is new elsewhere (imported data, a git remote) is not looked at: None.

    Raises:
        TimmflowError: the repository cannot be retrained.
    """
    site = open_site(root)
    clear(site)
    elsewhere = site.has_imports() or site.params.retrain.git_remote
    if read_record(root, "decided") or elsewhere:
        return None
    return _last(site, site.inputs(), Registry(root).in_stage(), promote)


def retrain_here(
    root: Path, steps: Steps, force: bool, promote: Promote | None, publish: bool
) -> dict[str, Any]:
    """Retrain a repository; call with the lock held. As `flows.retrain.retrain`, but for the rows.

    Raises:
        TimmflowError: it could not be done; the champion is as it was.
    """
    site = open_site(root)
    clear(site)
    steps.begin(site)
    decided = _decided(root)
    if site.params.retrain.git_remote:
        steps.do("fetch", lambda on_line: _fetch(site, decided, on_line))
        site = open_site(root)
        steps.begin(site)
        # Another machine may have taken it out of production.
        decided = _decided(root)
    finished = _finish(site, steps, decided) if decided else None
    if finished is not None:
        site = open_site(root)
    mode = promote or site.params.retrain.promote
    inputs = site.inputs()
    champion = Registry(root).in_stage()
    last = None if force else _last(site, inputs, champion, promote)
    if last is not None and not site.has_imports():
        return finished or _nothing(steps, last)
    with at_work(site) as work:
        if site.needs_merge:
            steps.do("merge", lambda on_line: _merge_head(work))
        steps.do("data", lambda on_line: _data(work, inputs["batches"], on_line))
        if last is not None and not work.changed():
            return finished or _nothing(steps, last)
        for stage in STAGES:
            # What DVC restores it takes from its cache unseen.
            if steps.stage(stage, work) != "ran" and work.drop_damaged(stage):
                steps.stage(stage, work)
        result = _judge(work, steps, champion, inputs, mode)
        if publish and site.params.retrain.publish_seconds:
            steps.do("publish", lambda on_line: _publish(work, on_line))
        return result


def _last(
    site: Site, inputs: dict[str, Any], champion: Version | None, promote: Promote | None
) -> dict[str, Any] | None:
    done = read_record(site.root, "done")
    name = champion.name if champion else ""
    key = site.key(inputs, site.tip, name, [promote or site.params.retrain.promote])
    if done.get("key") != key:
        return None
    summary = f"since the last retraining ({done['result']['summary']})"
    return {**done["result"], "outcome": "nothing new", "summary": summary}


def _nothing(steps: Steps, last: dict[str, Any]) -> dict[str, Any]:
    steps.do("retrain", lambda on_line: ("unchanged", f"nothing new {last['summary']}"))
    return last


def _merge_head(work: Retraining) -> tuple[str, str]:
    work.merge_head()
    return "done", f"{work.site.head[:8]} into {work.site.params.retrain.branch}"


def _data(work: Retraining, batches: dict[str, str], on_line: OnLine) -> tuple[str, str]:
    work.bring_data(on_line)
    done = read_record(work.site.root, "done")
    merged = done.get("merged", {}) if done.get("data") == work.data_version() else {}
    new = {name: mark for name, mark in batches.items() if merged.get(name) != mark}
    work.merge_batches(new, on_line)
    said = [f"merged {', '.join(work.merged)}"] if work.merged else []
    said += [f"refused {name}: {why.partition(chr(10))[0]}" for name, why in work.refused.items()]
    return "done" if not work.refused else "partly", "; ".join(said) or "no new batch"


def _judge(
    work: Retraining,
    steps: Steps,
    champion: Version | None,
    inputs: dict[str, Any],
    mode: Promote,
) -> dict[str, Any]:
    """From the stages' results to a version, or to the reason why there is none."""
    site = work.site
    registry = Registry(work.tree)
    record: dict[str, Any] = {
        "champion": champion.name if champion else "",
        "head": site.head,
        "tip": site.tip,
        "inputs": inputs,
        "mode": mode,
        "refused": work.refused,
    }
    same = _same_model(registry, work.model(), champion)
    if same is not None:
        where = ", ".join(same.stages) or "no stage"
        summary = f"the stages give the model of {same.name}, which is in {where}"
        steps.do("gate", lambda on_line: ("skipped", summary))
        return _over(site, record, "nothing new", summary, None)
    judged: list[tuple[bool, str]] = []

    def gate(on_line: OnLine) -> tuple[str, str]:
        judged.append(work.gate(champion, on_line))
        return ("passed" if judged[0][0] else "refused"), judged[0][1]

    steps.do("gate", gate)
    passed, said = judged[0]
    if not passed:
        return _over(site, record, "refused", said, None)

    def commit(on_line: OnLine) -> tuple[str, str]:
        record["summary"] = said
        record["commit"] = work.commit(record["summary"])
        record["data"] = work.data_version()
        record["merged"] = {
            name: mark for name, mark in inputs["batches"].items() if name not in work.refused
        }
        # From here on the next run finishes what this one does not.
        write_record(site.root, "decided", record)
        return "done", f"{record['commit'][:8]}, for {site.params.retrain.branch}"

    steps.do("commit", commit)
    return _conclude(work, steps, record)


def _conclude(work: Retraining, steps: Steps, record: dict[str, Any]) -> dict[str, Any]:
    """Put a commit in place: remote, branch, version, stage; also where some of it is already."""
    site, commit, registry = work.site, record["commit"], Registry(work.tree)
    version: list[Version] = []

    def push(on_line: OnLine) -> tuple[str, str]:
        work.push(on_line)
        return "done", ""

    def register(on_line: OnLine) -> tuple[str, str]:
        work.move_branch(commit, record["tip"])
        now = work.registry(["register", f"--reason={record['summary']}"], on_line)
        version.extend(v for v in now.versions() if v.commit == commit)
        return "done", f"{version[0].name}: {commit[:8]}"

    def promote(on_line: OnLine) -> tuple[str, str]:
        before = registry.in_stage()
        work.registry(["promote", version[0].name, f"--reason={record['summary']}"], on_line)
        return "done", f"{version[0].name}, was {before.name if before else 'none'}"

    def share(on_line: OnLine) -> tuple[str, str]:
        try:
            work.share(on_line)
        except FlowError as error:
            withdraw(site, record)
            raise FlowError(
                f"{error}\n{version[0].name} is not registered: the next run tries again, and "
                "begins with what another machine may have sent first"
            ) from None
        return "done", f"{version[0].name}, to {site.params.retrain.git_remote}"

    if registry.has_remote():
        steps.do("push", push)
    steps.do("register", register)
    outcome = "registered"
    name = version[0].name
    if record["mode"] == "automatic":
        steps.do("promote", promote)
        outcome = "promoted"
        record = {**record, "champion": name}
    if site.params.retrain.git_remote:
        steps.do("share", share)
    result = _over(site, record, outcome, f"{name}: {record['summary']}", name)
    drop_record(site.root, "decided")
    return result


def _decided(root: Path) -> dict[str, Any]:
    """What a run that was killed had decided; what does not hold any more is forgotten."""
    record = read_record(root, "decided")
    if record and not _holds(root, record):
        drop_record(root, "decided")
        return {}
    return record


def _holds(root: Path, record: dict[str, Any]) -> bool:
    commit = record.get("commit", "")
    with suppress(RepositoryError):
        git(root, "cat-file", "-e", f"{commit}^{{commit}}")
        registry = Registry(root)
        # One that was in production and is no more has been taken out of it by somebody.
        was = any(e.stage == PRODUCTION and e.commit == commit for e in registry.events)
        return "head" in record and (not was or registry.stages().get(PRODUCTION) == commit)
    return False


def _fetch(site: Site, decided: dict[str, Any], on_line: OnLine) -> tuple[str, str]:
    if decided:
        withdraw(site, decided)
        site = replace(site, tip=ref(site.root, site.branch))
    fetch(site, on_line, RETRY_SECONDS)
    return "done", f"from {site.params.retrain.git_remote}"


def _finish(site: Site, steps: Steps, record: dict[str, Any]) -> dict[str, Any] | None:
    """Finish what a run that was killed had decided, unless that does not hold any more."""
    commit, champion = record["commit"], Registry(site.root).in_stage()
    same = champion is not None and champion.commit == commit
    try:
        if not same and record["champion"] != (champion.name if champion else ""):
            raise FlowError("the champion is another one now")
        held = site.tip is not None and is_ancestor(site.root, commit, site.tip)
        if site.tip != record["tip"] and not held:
            raise FlowError("the branch has gone elsewhere")
        # As it was decided: neither data nor commits that have come since are part of it.
        with at_work(replace(site, head=record["head"], start=commit)) as work:

            def restore(on_line: OnLine) -> tuple[str, str]:
                work.restore(on_line)
                return "done", commit[:8]

            steps.do("finish", restore)
            return _conclude(work, steps, record)
    except StageFailed as error:
        # It must not stop every run to come: the next one does all again, mostly from caches.
        if error.stage not in _SENDING:
            # A version that is half in place would pass for one that nothing is new since.
            if site.params.retrain.git_remote or not _in_place(site.root, record):
                withdraw(site, record)
            drop_record(site.root, "decided")
        raise
    except (FlowError, RepositoryError):
        # Judged against another champion, or on another branch: everything is done again.
        drop_record(site.root, "decided")
        return None


def _in_place(root: Path, record: dict[str, Any]) -> bool:
    """Whether a version that was decided on is where it belongs on this machine."""
    found = [v for v in Registry(root).versions() if v.commit == record["commit"]]
    return any(v.stages or record["mode"] == "review" for v in found)


def _over(
    site: Site, record: dict[str, Any], outcome: str, summary: str, version: str | None
) -> dict[str, Any]:
    """Remember what a retraining was made of, and how it ended."""
    tip = record.get("commit", site.tip)
    result = {
        "outcome": outcome,
        "summary": summary,
        "version": version,
        "refused": record["refused"],
    }
    before = read_record(site.root, "done")
    write_record(
        site.root,
        "done",
        {
            "key": site.key(record["inputs"], tip, record["champion"], [record["mode"]]),
            "result": result,
            "merged": record.get("merged", before.get("merged", {})),
            "data": record.get("data", before.get("data", "")),
        },
    )
    return result


def _same_model(registry: Registry, md5: str, champion: Version | None) -> Version | None:
    """The champion or the newest version, if that is what the stages have given."""
    for version in [champion, *registry.versions()[:1]]:
        if version is not None and registry.model_file(version.commit)[1] == md5:
            return version
    return None


def _publish(work: Retraining, on_line: OnLine) -> tuple[str, str]:
    problem = work.publish(on_line)
    return ("not sent", problem.partition("\n")[0]) if problem else ("done", "")
