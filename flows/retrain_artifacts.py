"""What Prefect's page shows of a retraining, beside its log: artifacts.

How far it is while it runs; then the steps' outcomes, the change of each figure against the model
in production, the verdict, a picture of it, and where the report lies.
"""

from __future__ import annotations

import base64
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from components.errors import DataError, RepositoryError
from components.files import read_json
from flows.flow_errors import FlowError, masked
from flows.progress import StageRow
from flows.retrain_site import Site, at
from tasks.layout import STAGES, Layout
from tasks.model_registry import Registry

# Beside the stages: data, gate, commit, register, promote, publish. A run may have fewer or more.
_NUM_STEPS = len(STAGES) + 6
# Classes in the picture.
_MOST_BARS = 20


class Artifacts:
    """Of one retraining.

    Args:
        site: that is retrained.
    """

    def __init__(self, site: Site) -> None:
        self._progress: UUID | None = None
        self.begin(site)

    def begin(self, site: Site) -> None:
        """Take what there is before the work; again, where more has been fetched since."""
        self._site = site
        self._champion = Registry(site.root).in_stage()

    def step(self, num_done: int) -> None:
        """A step is over."""
        share = min(100.0 * num_done / _NUM_STEPS, 99.0)
        if self._progress is None:
            made: Any = create_progress_artifact(share, "retrain-progress", "How far it is.")
            self._progress = made
        else:
            update_progress_artifact(self._progress, share)

    def finish(self, rows: Sequence[StageRow]) -> None:
        """Show what came of it.

        Args:
            rows: one a step.
        """
        if self._progress is not None:
            update_progress_artifact(self._progress, 100.0)
        done = {row.stage for row in rows if row.outcome not in ("failed", "skipped")}
        done |= {row.stage for row in rows if row.stage in STAGES and row.outcome == "skipped"}
        last = Layout(self._site.folder / "last")
        if "evaluate" in done:
            self._figures(last)
        if "report" in done and last.page.exists():
            create_link_artifact(
                f"file://{last.page}",
                f"{last.page} on {socket.gethostname()}",
                key="retrain-report",
                description="The page to review; open it on that machine.",
            )
        if "gate" in done:
            self._verdict(last)

    def _figures(self, last: Layout) -> None:
        now = {stage: _read(last.metrics(stage)) for stage in STAGES}
        before: dict[str, dict[str, Any]] = {}
        name = "no version in production"
        if self._champion is not None:
            name = self._champion.name
            before = {stage: self._recorded(stage) for stage in STAGES}
        create_table_artifact(
            key="retrain-metrics",
            table=masked(changes(now, before)),
            description=f"Each figure, and its change against {name}.",
        )

    def _recorded(self, stage: str) -> dict[str, Any]:
        """Figures of the champion's commit; JSON is YAML."""
        assert self._champion is not None
        try:
            return at(self._site.root, self._champion.commit, f"metrics/{stage}.json")
        except (FlowError, RepositoryError):
            return {}

    def _verdict(self, last: Layout) -> None:
        verdict = masked(_read(last.root / "reports" / "verdict.json"))
        if not verdict.get("rules"):
            return
        create_markdown_artifact(
            verdict_markdown(verdict), key="retrain-verdict", description="What the gate found."
        )
        picture = base64.b64encode(comparison_svg(verdict).encode()).decode()
        create_image_artifact(
            f"data:image/svg+xml;base64,{picture}",
            key="retrain-picture",
            description="The new model and the one in production on the same images.",
        )


def show_outcomes(rows: Sequence[StageRow]) -> None:
    """The steps in a table."""
    create_table_artifact(
        key="retrain-outcomes",
        table=[{**asdict(row), "seconds": round(row.seconds, 1)} for row in rows],
        description="What became of each step.",
    )


def changes(
    now: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A row a figure: `stage`, `figure`, `before`, `now`, `change`; empty where there is none.

    Args:
        now: stage to its figures.
        before: the same of the model in production.
    """
    rows = []
    for stage, figures in now.items():
        old = before.get(stage, {})
        for name in [*figures, *(key for key in old if key not in figures)]:
            was, value = old.get(name), figures.get(name)
            change = ""
            if isinstance(was, int | float) and isinstance(value, int | float):
                change = "0" if was == value else _shown(value - was)
            shown = {"before": _shown(was), "now": _shown(value), "change": change}
            rows.append({"stage": stage, "figure": name, **shown})
    return rows


def verdict_markdown(verdict: Mapping[str, Any]) -> str:
    """The gate's outcome, its reasons, and every rule in a table."""
    lines = [f"# {verdict['outcome']}: {verdict['comparison']}", ""]
    lines += [f"- {_cell(reason)}" for reason in verdict["reasons"]]
    lines += ["", "| rule | about | measured | limit | outcome |", "|---|---|---:|---:|---|"]
    for rule in verdict["rules"]:
        cells = [rule["rule"], rule["about"], rule["measured"], rule["limit"], rule["outcome"]]
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def comparison_svg(verdict: Mapping[str, Any]) -> str:
    """The deciding metric of both models, and that of each class: a bar each, as an SVG.

    Args:
        verdict: of `tasks.gate`.
    """
    figures = verdict["figures"]
    entries = {f"all ({figures['metric']})": figures["all"], **figures["classes"]}
    parts, y = [], 28
    for name, entry in list(entries.items())[: _MOST_BARS + 1]:
        parts.append(
            f'<text x="150" y="{y + 15}" text-anchor="end">{escape(str(name)[:22])}</text>'
        )
        for model, colour, top in (("champion", "#9aa0a6", 0), ("challenger", "#2a78d6", 10)):
            value = entry[model]
            if value is None or not math.isfinite(value):
                continue
            width = 300 * min(max(value, 0.0), 1.0)
            parts.append(
                f'<rect x="160" y="{y + top}" width="{width:.1f}" height="9" fill="{colour}"/>'
                f'<text x="{165 + width:.1f}" y="{y + top + 9}" font-size="10">{value:.3f}</text>'
            )
        y += 28
    legend = (
        '<text x="160" y="16"><tspan fill="#9aa0a6">■</tspan> in production '
        '<tspan fill="#2a78d6">■</tspan> new</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="520" height="{y}" '
        f'font-family="sans-serif" font-size="12"><rect width="520" height="{y}" fill="white"/>'
        f"{legend}{''.join(parts)}</svg>"
    )


def _read(path: Path) -> dict[str, Any]:
    """A file of the run; empty where it has none."""
    try:
        found = read_json(path)
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(value: object) -> str:
    return _shown(value).replace("|", "\\|").replace("\n", " ")
