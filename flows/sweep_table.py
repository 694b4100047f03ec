"""What a sweep found: one table, best first, and the best parameters as a change of params.yaml."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.files import write_json, write_text
from flows.sweep_trial import Row
from tasks.params_edit import shown, with_values


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Best first, by the main metric on val; then those without one."""
    none = float("-inf")
    return sorted(rows, key=lambda row: (-(none if row.score is None else row.score), row.number))


def best(rows: Sequence[Row]) -> Row | None:
    """The trial to keep: the highest main metric on val; of equals the first."""
    first = next(iter(ranked(rows)), None)
    return first if first is not None and first.score is not None else None


def as_record(row: Row) -> dict[str, Any]:
    """A row of the table: parameters by dotted key, figures by split and name.

    The figure on test is there to be read once a choice has been made on val.
    """
    figures, measured = row.figures, row.figures.get("evaluate", {})
    record: dict[str, Any] = {"trial": row.number, "status": row.status, **row.values}
    if figures:
        monitor = figures["monitor"]
        name = monitor.removeprefix("val/")
        record |= {monitor: figures["best"]}
        record |= {key: figures[key] for key in ("best_epoch", "num_epochs") if key in figures}
        if name in measured and measured.get("split") != "val":
            record[f"{measured['split']}/{name}"] = measured[name]
    return record | {"seconds": round(row.seconds, 1), "key": row.key, "reason": row.reason}


def write_table(rows: Sequence[Row], folder: Path) -> tuple[Path, Path]:
    """Write `sweep.csv`, and `sweep.json` with all figures of each trial; returns their paths."""
    table, whole = folder / "sweep.csv", folder / "sweep.json"
    records = [as_record(row) for row in ranked(rows)]
    # Columns in the order of a row that has them all; a failed one lacks the figures.
    columns = list(dict.fromkeys(key for record in records for key in record))
    last = ("seconds", "key", "reason")
    columns = [key for key in columns if key not in last] + list(last)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({key: _cell(value) for key, value in record.items()})
    write_text(table, text.getvalue())
    write_json(
        whole,
        [{**as_record(row), "values": row.values, "figures": row.figures} for row in ranked(rows)],
    )
    return table, whole


def _cell(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else shown(value)


def text_table(rows: Sequence[Row]) -> str:
    """The table for a terminal, without what is long."""
    records = [as_record(row) for row in ranked(rows)]
    columns = list(dict.fromkeys(key for record in records for key in record))
    columns = [key for key in columns if key not in ("key", "reason")]
    lines = [columns]
    for record in records:
        values = [record.get(key, "") for key in columns]
        lines.append([f"{v:.4g}" if isinstance(v, float) else str(_cell(v)) for v in values])
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def params_diff(row: Row, params: Path) -> str:
    """What would make a parameter file that of a trial, as a unified diff; empty: nothing."""
    old = params.read_text(encoding="utf-8")
    lines = difflib.unified_diff(
        old.splitlines(keepends=True),
        with_values(old, row.values).splitlines(keepends=True),
        str(params.name),
        f"{params.name} (trial {row.number})",
        n=1,
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def apply(row: Row, params: Path) -> None:
    """Write a trial's values to a parameter file, whole or not at all; its line ends stay."""
    write_text(params, with_values(params.read_bytes().decode("utf-8"), row.values))
