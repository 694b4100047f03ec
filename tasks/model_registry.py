"""Versions of the model and the stages they are in: what `python -m tasks.registry` and flows call.

A version is a commit whose `dvc.lock` names the model's bytes. Its tag is written last, and only
when all that the commit names is in the DVC remote, where one is configured. So nothing is ever
half registered: a version without a tag is no version, and one with it can be fetched and made
again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from components.errors import RegistryError, RepositoryError
from tasks.registry_tags import ARTIFACT, Event, read_events, write_event
from tasks.repository import dvc, git

PRODUCTION = "production"
Bump = Literal["major", "minor", "patch"]
FIRST = "v1.0.0"


@dataclass(frozen=True)
class Version:
    """A registered version.

    Attributes:
        name: such as `v1.2.0`.
        commit: that it is.
        date: of its registration, UTC.
        stages: that it is in now.
        retired: whether it was taken back; it then goes into no stage.
    """

    name: str
    commit: str
    date: str
    stages: tuple[str, ...]
    retired: bool


class Registry:
    """The registry of a repository.

    Args:
        root: of the working tree; its tags are the registry.
        push: bring tags from and to the git remote, so that others see them.

    Raises:
        RegistryError: this is a shallow clone, which may lack tags; or `retrain.git_remote` names a
            remote that it does not have.
        RepositoryError: this is no git repository, or its remote cannot be reached.
    """

    def __init__(self, root: Path, push: bool = False):
        self.root = Path(root)
        self._push = push
        if git(self.root, "rev-parse", "--is-shallow-repository") == "true":
            raise RegistryError(
                f"{self.root}: a shallow clone, which may lack versions; run git fetch --unshallow "
                "--tags"
            )
        if push:
            git(self.root, "fetch", "--quiet", "--tags", self._git_remote())
        self.events = read_events(self.root)

    def versions(self) -> list[Version]:
        """All versions, the newest first; retired ones too."""
        retired = {event.version for event in self.events if event.kind == "retire"}
        inside: dict[str, list[str]] = {}
        for stage, commit in self.stages().items():
            inside.setdefault(commit, []).append(stage)
        found = [
            Version(
                event.version,
                event.commit,
                event.date,
                tuple(sorted(inside.get(event.commit, ()))),
                event.version in retired,
            )
            for event in self.events
            if event.kind == "register"
        ]
        return sorted(found, key=lambda version: _numbers(version.name), reverse=True)

    def stages(self) -> dict[str, str]:
        """Stage to the commit that is in it."""
        now: dict[str, str] = {}
        for event in self.events:
            if event.kind == "assign":
                now[event.stage] = event.commit
            elif event.kind == "unassign" and now.get(event.stage) == event.commit:
                del now[event.stage]
        return now

    def version(self, name: str) -> Version:
        """A version by name, the `v` may be left out.

        Raises:
            RegistryError: there is none of that name; names those there are.
        """
        wanted = name if name.startswith("v") else f"v{name}"
        known = self.versions()
        for version in known:
            if version.name == wanted:
                return version
        names = ", ".join(version.name for version in known[:8])
        raise RegistryError(f"{name}: no such version; there are {names or 'none yet'}")

    def in_stage(self, stage: str = PRODUCTION) -> Version | None:
        """The version in a stage."""
        return next((version for version in self.versions() if stage in version.stages), None)

    def register(self, bump: Bump = "minor", reason: str = "") -> Version:
        """Make the commit that is checked out a version; if it is one already, that is returned.

        Args:
            bump: which part of the last version's number rises.
            reason: for the record.

        Raises:
            RegistryError: tracked files are changed; DVC's outputs are not those of the commit; the
                commit names no model; or a push failed. Nothing is registered then.
        """
        commit = self._head()
        changed = git(self.root, "status", "--porcelain", "--untracked-files=no").splitlines()
        if changed:
            names = ", ".join(line[3:] for line in changed[:5]) + (", …" if changed[5:] else "")
            raise RegistryError(
                f"not as in the last commit: {names}; commit that first: a version is a commit"
            )
        known = self.versions()
        for version in known:
            if version.commit == commit:
                return version
        self.model_file(commit)
        self._check_outputs()
        if self.has_remote() and _not_on_remote(self.root):
            _dvc(self.root, "push")
            if missing := _not_on_remote(self.root):
                raise RegistryError(
                    f"dvc push: {len(missing)} files are not on the remote, or not in the cache "
                    f"(the first: {missing[0]}); nothing was recorded"
                )
        self._check_fetchable(commit)
        name = _bumped(known[0].name, bump) if known else FIRST
        self._write(f"{ARTIFACT}@{name}", commit, f"register {name}", reason)
        return self.version(name)

    def promote(self, name: str, stage: str = PRODUCTION, reason: str = "") -> Version | None:
        """Put a version into a stage; the one that is in it leaves it.

        Args:
            name: of the version.
            stage: letters, digits, `-`, `/` and `_`.
            reason: for the record.

        Returns:
            The version that was in the stage, None if there was none. If it is this one, nothing is
            recorded.

        Raises:
            RegistryError: there is no such version, it is retired, or its file cannot be fetched.
        """
        return self._move(self.version(name), stage, reason, rollback=False)

    def rollback(self, stage: str = PRODUCTION, reason: str = "") -> tuple[Version, Version]:
        """Put the version back into a stage that was there before the one that is.

        Rolling back twice goes back two versions: what was rolled back from is not returned to.

        Returns:
            The version that left the stage, and the one that is in it again.

        Raises:
            RegistryError: there is nothing before, or its file cannot be fetched.
        """
        current, earlier = self.in_stage(stage), self._before(stage)
        if current is None:
            raise RegistryError(f"{stage}: no version is in this stage")
        if earlier is None:
            raise RegistryError(
                f"{stage}: there was no version before {current.name} to go back to"
            )
        self._move(earlier, stage, reason, rollback=True)
        return current, earlier

    def retire(self, name: str, reason: str = "") -> Version:
        """Take a version back; it stays on record and its files stay where they are.

        Raises:
            RegistryError: there is no such version, or it is in a stage.
        """
        version = self.version(name)
        if version.retired:
            return version
        if version.stages:
            raise RegistryError(
                f"{version.name}: is in {', '.join(version.stages)}: promote another one or roll "
                "back first"
            )
        tag = f"{ARTIFACT}@{version.name}!"
        self._write(tag, version.commit, f"retire {version.name}", reason)
        return self.version(name)

    def has_remote(self) -> bool:
        """Whether DVC has a remote, on which all must be that is registered."""
        return bool(_dvc(self.root, "remote", "list"))

    def model_file(self, commit: str) -> tuple[str, str]:
        """Path and MD5 of the model that a commit names.

        Raises:
            RegistryError: it names none.
        """
        return model_in(self.at(commit, "dvc.yaml"), self.at(commit, "dvc.lock"), commit[:7])

    def fetch(self, commit: str, target: Path) -> None:
        """Bring the model that a commit names from the cache or the remote.

        Args:
            commit: of a version.
            target: file to write; must not exist.

        Raises:
            RegistryError: the commit names none, or its bytes are nowhere or damaged.
        """
        path, md5 = self.model_file(commit)
        _dvc(self.root, "get", "--rev", commit, "-o", str(target), ".", path)
        with target.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != md5:
            raise RegistryError(
                f"{path} of {commit[:7]}: its bytes are damaged (MD5 {found}, dvc.lock says {md5})"
            )

    def at(self, commit: str, path: str) -> dict[str, Any]:
        """A YAML or JSON file as it is in a commit; empty where it has none."""
        try:
            text = git(self.root, "show", f"{commit}:./{path}")
        except RepositoryError:
            return {}
        try:
            tree = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RegistryError(f"{path} in {commit[:7]}: not valid YAML: {error}") from None
        return tree if isinstance(tree, dict) else {}

    def _head(self) -> str:
        try:
            return git(self.root, "rev-parse", "--verify", "HEAD^{commit}")
        except RepositoryError:
            raise RegistryError("there is no commit yet, and a version is a commit") from None

    def _before(self, stage: str) -> Version | None:
        """What a rollback of a stage leads to."""
        by_commit = {version.commit: version for version in self.versions()}
        entered: list[str] = []
        for event in self.events:
            if event.kind != "assign" or event.stage != stage:
                continue
            if event.is_rollback and event.commit in entered:
                del entered[entered.index(event.commit) + 1 :]
            else:
                entered = [commit for commit in entered if commit != event.commit]
                entered.append(event.commit)
        for commit in reversed(entered[:-1]):
            version = by_commit.get(commit)
            if version is not None and not version.retired:
                return version
        return None

    def _move(self, version: Version, stage: str, reason: str, rollback: bool) -> Version | None:
        from gto.constants import check_string_is_valid

        if not check_string_is_valid(stage):
            raise RegistryError(
                f"stage {stage!r}: letters, digits, '-', '/' and '_', the ends a letter or digit"
            )
        if version.retired:
            raise RegistryError(f"{version.name}: is retired, so it goes into no stage")
        current = self.in_stage(stage)
        if current == version:
            return current
        self._check_fetchable(version.commit)
        was = f" (was {current.name})" if current else ""
        what = "roll back to" if rollback else "promote"
        message = f"{what} {version.name}: {stage}{was}"
        self._write(f"{ARTIFACT}#{stage}", version.commit, message, reason, rollback)
        return current

    def _write(
        self, name: str, commit: str, message: str, reason: str, rollback: bool = False
    ) -> None:
        text = f"{message}\n\n{reason}" if reason else message
        tag = write_event(self.root, self.events, name, commit, text, rollback)
        if self._push:
            try:
                git(self.root, "push", "--quiet", self._git_remote(), f"refs/tags/{tag}")
            except RepositoryError as error:
                git(self.root, "tag", "-d", tag)
                raise RegistryError(f"{error}; nothing was recorded") from None
        self.events = read_events(self.root)

    def _git_remote(self) -> str:
        """The remote that tags are fetched from and pushed to.

        That by which retrainings are shared; else the only one there is, or `origin`.
        """
        names = git(self.root, "remote").splitlines()
        # Nothing else of the parameters is looked at: no fault of theirs must stop a rollback.
        retrain = self.at("HEAD", "params.yaml").get("retrain")
        shared = retrain.get("git_remote") if isinstance(retrain, dict) else None
        if shared is None:
            return names[0] if len(names) == 1 else "origin"
        if shared not in names:
            there = ", ".join(names) or "none"
            raise RegistryError(f"retrain.git_remote = {shared}: no git remote; there are: {there}")
        return str(shared)

    def _check_outputs(self) -> None:
        """What lies here is what the commit says, so that `dvc repro` would have nothing to do."""
        changed = json.loads(_dvc(self.root, "status", "--json") or "{}")
        if changed:
            raise RegistryError(
                f"DVC's outputs are not those of the last commit (changed: {', '.join(changed)}): "
                "run `dvc repro`, commit dvc.lock, and register that"
            )

    def _check_fetchable(self, commit: str) -> None:
        """The model's bytes are in the cache or the remote, and are those that the commit names."""
        with tempfile.TemporaryDirectory() as folder:
            self.fetch(commit, Path(folder, "model"))


def model_in(dvc_yaml: dict[str, Any], dvc_lock: dict[str, Any], where: str) -> tuple[str, str]:
    """Path and MD5 of the model that a pair of DVC's files names.

    Args:
        dvc_yaml, dvc_lock: what the files hold.
        where: they are from, for the message.

    Raises:
        RegistryError: they name none.
    """
    declared = dvc_yaml.get("artifacts", {}).get(ARTIFACT, {})
    if "path" not in declared:
        raise RegistryError(f"dvc.yaml: artifacts.{ARTIFACT}.path: missing in {where}")
    path = str(declared["path"])
    for stage in dvc_lock.get("stages", {}).values():
        for output in stage.get("outs", []):
            if output["path"] == path and "md5" in output:
                return path, str(output["md5"])
    raise RegistryError(
        f"dvc.lock: no output {path} in {where}: run `dvc repro` and commit dvc.lock"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version[1:].split("-")[0].split("+")[0].split("."))


def _bumped(version: str, bump: Bump) -> str:
    major, minor, patch = _numbers(version)
    raised = {"major": (major + 1, 0, 0), "minor": (major, minor + 1, 0)}
    return "v{}.{}.{}".format(*raised.get(bump, (major, minor, patch + 1)))


def _dvc(root: Path, *words: str) -> str:
    """What DVC prints.

    Raises:
        RegistryError: it fails; with its words.
    """
    try:
        return dvc(root, *words)
    except RepositoryError as error:
        raise RegistryError(f"{error}; nothing was recorded") from None


def _not_on_remote(root: Path) -> list[str]:
    """Names of what the working tree refers to and the remote, or the cache, does not have."""
    return list(json.loads(_dvc(root, "status", "--cloud", "--json") or "{}"))


def stage_history(events: list[Event], stage: str) -> list[Event]:
    """Events of a stage, the newest first."""
    return [event for event in reversed(events) if event.stage == stage]
