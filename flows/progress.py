"""What a flow tells while it is at work: a row a step, and the lines that a step prints."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace

from flows.flow_errors import StageFailed

OnLine = Callable[[str], None]
# Does a step, handing on the lines that it prints; gives its outcome and headline.
Work = Callable[[OnLine], tuple[str, str]]


@dataclass(frozen=True)
class StageRow:
    """What became of one stage, or of another step of a flow.

    Args:
        stage: its name.
        outcome: of a stage `ran`, `restored` (from DVC's cache), `skipped` (nothing had changed),
            `failed`, or `not reached`; other steps have words of their own.
        seconds: wall clock.
        headline: its figures in a few words, or why it failed.
    """

    stage: str
    outcome: str
    seconds: float
    headline: str

    def __str__(self) -> str:
        return (
            f"{self.stage:<11} {self.outcome:<9} {self.seconds:>7.1f} s  {self.headline}".rstrip()
        )


def failed_row(error: StageFailed) -> StageRow:
    """The row of a step that failed."""
    return StageRow(error.stage, "failed", error.seconds, error.reason)


class Watcher:
    """What is told of a flow, independent of the level of Prefect's log; here nothing."""

    def line(self, text: str) -> None:
        """A line that a step printed."""

    def row(self, row: StageRow) -> None:
        """A step has ended."""


class Terminal(Watcher):
    """Tells it on standard output.

    Args:
        quiet: rows only.
    """

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def line(self, text: str) -> None:
        """Print it, unless quiet."""
        if not self._quiet:
            print(text, flush=True)

    def row(self, row: StageRow) -> None:
        """Print it; why a step failed is said once, in full, at the end or in the lines above."""
        print(replace(row, headline="") if row.outcome == "failed" else row, flush=True)


watcher: ContextVar[Watcher] = ContextVar("watcher")
"""Set by the command; a flow run by a worker has none."""
