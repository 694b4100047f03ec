"""The registry as git holds it: annotated tags, named by GTO's scheme, read back as events.

`model@v1.2.0` registers the commit it points at, `model@v1.2.0!` retires that version again, and
`model#production#7` puts the version of its commit into a stage: the 7th such event. GTO and
`dvc artifacts get` read the same tags. Both go by the time of a tag, in whole seconds; so each tag
is dated later than all before it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from tasks.repository import git

ARTIFACT = "model"

Kind = Literal["register", "retire", "assign", "unassign"]

_FORMAT = "%(refname:strip=2)%00%(objecttype)%00%(*objectname)%00%(taggerdate:unix)%00%(contents)"
_ROLLBACK = "Timmflow-Action: rollback"  # a trailer of the message


@dataclass(frozen=True)
class Event:
    """One tag.

    Attributes:
        tag: its name.
        kind: what happened.
        version: such as `v1.2.0`, of what was registered or retired; empty for stages.
        stage: of what was assigned; empty for versions.
        commit: that the tag points at.
        seconds: when, since 1970.
        message: why, in full.
        counter: of stage events, rising; 0 for versions.
    """

    tag: str
    kind: Kind
    version: str
    stage: str
    commit: str
    seconds: int
    message: str
    counter: int

    @property
    def date(self) -> str:
        """When, UTC, to the second."""
        return datetime.fromtimestamp(self.seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")

    @property
    def reason(self) -> str:
        """What was done and why, in a line."""
        lines = [line for line in self.message.splitlines() if line and line != _ROLLBACK]
        return "; ".join(lines)

    @property
    def is_rollback(self) -> bool:
        """Whether a stage went back to what it had."""
        return _ROLLBACK in self.message.splitlines()


def read_events(root: Path) -> list[Event]:
    """All events of the model, the oldest first. As for GTO, tags without a message are none."""
    from gto.constants import Action
    from gto.tag import parse_name

    kinds: dict[Action, Kind] = {
        Action.REGISTER: "register",
        Action.DEREGISTER: "retire",
        Action.ASSIGN: "assign",
        Action.UNASSIGN: "unassign",
    }
    listed = git(root, "for-each-ref", "refs/tags", f"--format={_FORMAT}%01")
    events = []
    for entry in listed.removesuffix("\x01").split("\x01\n"):
        if not entry:
            continue
        tag, kind, commit, seconds, message = entry.split("\0", 4)
        parsed = parse_name(tag, raise_on_fail=False)
        if kind != "tag" or parsed.get("name") != ARTIFACT or parsed["action"] not in kinds:
            continue
        events.append(
            Event(
                tag,
                kinds[parsed["action"]],
                parsed.get("version") or "",
                parsed.get("stage") or "",
                commit,
                int(seconds),
                message.strip(),
                parsed.get("counter") or 0,
            )
        )
    return sorted(events, key=lambda event: (event.seconds, event.counter, event.tag))


def write_event(
    root: Path, events: list[Event], name: str, commit: str, message: str, rollback: bool = False
) -> str:
    """Write one tag: the single step in which a version is registered or a stage changes hands.

    Args:
        root: of the repository.
        events: all there are.
        name: of the tag, without the counter that a stage event gets.
        commit: to tag.
        message: first line what, then why.
        rollback: mark it as one.

    Returns:
        The tag's full name.

    Raises:
        RepositoryError: git refuses; another process may have written the same tag first.
    """
    if "#" in name:
        name = f"{name}#{max((event.counter for event in events), default=0) + 1}"
    seconds = max(int(time.time()), *(event.seconds + 1 for event in events), 0)
    text = message + (f"\n\n{_ROLLBACK}" if rollback else "")
    date = {"GIT_COMMITTER_DATE": f"@{seconds} +0000"}
    git(root, "tag", "-a", "--cleanup=verbatim", "-F", "-", name, commit, stdin=text, env=date)
    return name
