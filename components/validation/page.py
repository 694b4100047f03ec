"""The page with all that validation found: one file that needs no other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from components.contract.catalogue import CHECKS
from components.contract.findings import Finding, shown
from components.validation.distributions import class_rows, data_charts, paired
from components.validation.page_examples import Example, Examples, pictures
from components.validation.thumbnails import Thumbnails

if TYPE_CHECKING:
    from components.validation.run import Result

_ROWS = 200  # shown of one check at most; the JSON has all
_FEWEST_ROWS = 5
_ROW_LETTERS = 1_000_000  # of all rows together, so that the page stays light
_PICTURES = 6  # of one check
_PICTURE_BYTES = 2_200_000
_PICTURE_PIXELS = 2_000_000_000  # decoded for all of them: some ten seconds
_QUARANTINED = 500  # images listed


_REST = re.compile(r"and ([\d,]+) more ")  # how `ledger` counts what it does not list


@dataclass(frozen=True)
class Group:
    """The findings of one check as the page shows them.

    Args:
        severity, check: what they have in common.
        meaning: of the check, from the catalogue.
        total: how many there are.
        rows: the first of them.
        examples: the worst as pictures.
    """

    severity: str
    check: str
    meaning: str
    total: int
    rows: list[Finding]
    examples: list[Example]


def render(
    result: Result,
    data: str,
    profile: Mapping[str, Any] | None = None,
    reference: Mapping[str, Any] | None = None,
    edges: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """The page as HTML. Text from the data is escaped.

    Args:
        result: of the validation. Images are read again from `result.reading.root`.
        data: what the page calls the data.
        profile: label counts and histograms of this data, as `distributions.paired` takes them.
        reference: the same of the last accepted data; both or neither are shown.
        edges: between the bins of the profiles' histograms, by name.
    """
    environment = Environment(
        loader=PackageLoader("components.validation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    reading, summary = result.reading, result.summary()
    splits, classes, classes_left_out = class_rows(
        reading, summary["images_per_class"], result.columns
    )
    groups = _groups(result)
    quarantined = result.quarantine
    drift = profile is not None and reference is not None
    return environment.get_template(
        "page.html.j2"
    ).render(
        data=shown(data),
        task=reading.task,
        format=reading.format,
        usable=not result.num_errors,
        summary=summary,
        splits=splits,
        classes=classes,
        classes_left_out=classes_left_out,
        charts=data_charts(reading, result.facts, result.columns),
        num_errors=result.num_errors,
        num_warnings=result.num_warnings,
        groups=[group for group in groups if CHECKS[group.check].family != "drift"],
        drift=[group for group in groups if CHECKS[group.check].family == "drift"],
        drift_parts=list(paired(reference, profile, edges)) if drift else [],  # type: ignore[arg-type]
        quarantined=quarantined[:_QUARANTINED],
        num_quarantined=len(quarantined),
    )


def _groups(result: Result) -> list[Group]:
    """Findings by severity and check, errors first, as they are sorted."""
    found: dict[tuple[str, str], list[Finding]] = {}
    unlisted = Counter[tuple[str, str]]()
    for item in result.findings:
        group = item.severity, item.check
        rest = _REST.match(item.message) if item.where == "the rest" else None
        if rest:  # one finding for many that are not spelt out
            unlisted[group] += int(rest[1].replace(",", ""))
        else:
            found.setdefault(group, []).append(item)
    examples = Examples(result.reading, result.findings, result.columns)
    chosen = {group: examples.choose(group[1], rows, _PICTURES) for group, rows in found.items()}
    thumbnails = Thumbnails(result.reading.root, _PICTURE_BYTES, _PICTURE_PIXELS)
    drawn = pictures(chosen, examples, thumbnails)
    letters = _ROW_LETTERS // max(len(found), 1)
    return [
        Group(
            severity,
            check,
            CHECKS[check].meaning,
            len(rows) + unlisted[severity, check],
            _first(rows, letters),
            drawn[severity, check],
        )
        for (severity, check), rows in found.items()
    ]


def _first(rows: Sequence[Finding], letters: int) -> list[Finding]:
    """As many rows as fit into so many letters, within limits."""
    kept: list[Finding] = []
    for row in rows[:_ROWS]:
        letters -= len(row.where) + len(row.message) + len(row.value) + len(row.allowed) + 60
        if letters < 0 and len(kept) >= _FEWEST_ROWS:
            break
        kept.append(row)
    return kept
