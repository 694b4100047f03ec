"""The page with all findings: one file that needs no other."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from components.contract.findings import count

if TYPE_CHECKING:
    from components.validation.run import Result

_PER_CHECK = 200  # rows shown of one check; the JSON has all


def render(result: Result, data: str) -> str:
    """The page as HTML. Text from the data is escaped.

    Args:
        result: of the validation.
        data: what the page calls the data.
    """
    environment = Environment(
        loader=PackageLoader("components.validation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups: dict[tuple[str, str], list[object]] = {}
    for finding in result.findings:
        groups.setdefault((finding.severity, finding.check), []).append(finding)
    objects = Counter(item.label for item in result.reading.objects)
    summary = result.summary()
    return environment.get_template("page.html.j2").render(
        data=data,
        task=result.reading.task,
        format=result.reading.format,
        summary=summary,
        most_images=max([*summary["images_per_class"].values(), 1]),
        objects=objects,
        num_errors=count(result.findings, "error"),
        num_warnings=count(result.findings, "warning"),
        groups=[
            {"severity": severity, "check": check, "rows": rows[:_PER_CHECK], "total": len(rows)}
            for (severity, check), rows in groups.items()
        ],
    )
