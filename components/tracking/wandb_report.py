"""A review as a W&B report: its JSON, and saving it. Needs the package wandb-workspaces."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

# What its panels and run sets are found by, within a report; wandb-workspaces draws them.
_IDS = ("id", "__id__", "ref", "runSetId")


def build(review: Mapping[str, Any], entity: str, project: str, run_id: str, site: str) -> Any:
    """A `wandb_workspaces.reports.v2.Report`; needs no network.

    Args:
        review: as `components.report.review` gives it.
        entity, project: where the run is.
        run_id: of the run that holds the curves and tables that are shown.
        site: address of the server's pages, to which links lead.
    """
    import wandb_workspaces.reports.v2 as wr

    # Without a project it is that of the report; with one, building would ask the server.
    runs = wr.Runset(name="This retraining", filters=f"Metric('ID') = '{run_id}'")

    def grid(panels: list[Any]) -> Any:
        return wr.PanelGrid(runsets=[runs], panels=panels, hide_run_sets=True)

    blocks: list[Any] = []
    for block in review["blocks"]:
        match block["kind"]:
            case "heading":
                blocks.append(wr.H2(text=block["text"]))
            case "markdown":
                home = f"]({site.rstrip('/')}/{entity}/{project}/"
                blocks.append(wr.MarkdownBlock(text=block["text"].replace("](wandb:", home)))
            case "curves":
                panels = [
                    wr.LinePlot(
                        title=title,
                        x="epoch",
                        y=names,
                        layout=wr.Layout(x=8 * number, y=0, w=8, h=8),
                    )
                    for number, (title, names) in enumerate(block["panels"].items())
                ]
                blocks.append(grid(panels))
            case "table":
                table = wr.WeavePanelSummaryTable(
                    table_name=block["name"], layout=wr.Layout(x=0, y=0, w=24, h=16)
                )
                blocks.append(grid([table]))
    return wr.Report(
        project=project,
        entity=entity,
        title=review["title"],
        description=review["description"],
        blocks=blocks,
    )


def report_json(report: Any) -> dict[str, Any]:
    """The JSON that W&B is given of a report, with ids that are the same each time."""
    spec = json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    numbers: dict[str, str] = {}
    counter = itertools.count()

    def steady(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: steady(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [steady(item) for item in value]
        if key in _IDS and isinstance(value, str) and value:
            if value not in numbers:
                numbers[value] = f"id{next(counter)}"
            return numbers[value]
        return value

    result: dict[str, Any] = steady(spec)
    return result


def save(review: Mapping[str, Any], entity: str, project: str, run_id: str) -> str:
    """Put a report in place of the one of the same title, if there is one; gives its address.

    Raises:
        ImportError: wandb-workspaces is not installed.
    """
    import wandb

    api = wandb.Api(timeout=20)
    report = build(review, entity, project, run_id, api.settings["base_url"])
    for known in api.reports(f"{entity}/{project}", name=review["title"]):
        if known.display_name == review["title"]:
            report.id = known.id
            break
    report.save()
    return str(report.url)
