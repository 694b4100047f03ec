"""Record a stage as an offline W&B run: a second of time, no network, and never a failure.

A stage run is a W&B run: job type = stage, group = pipeline run. Sending it is a step of its own
(`python -m tasks.publish`). What W&B cannot do, it says in one line: it never fails a stage.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.tracking.plan import RunPlan, at_work, write_plan

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Logged:
    """An artifact to log.

    Attributes:
        kind: W&B's type of it.
        path: file or folder.
        alias: names the content, so that others can say what they were made from; empty: none.
    """

    kind: str
    path: Path
    alias: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture for a table.

    Attributes:
        image: RGB pixels [H, W, 3], or a file.
        path, title, detail: the table's other columns.
        boxes: kind (`correct`, `false`, `missed`) to boxes of it: `label`, `score` (or None), and
            `left`, `top`, `right`, `bottom` as shares of the picture.
    """

    image: np.ndarray | Path
    path: str
    title: str
    detail: str
    boxes: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outputs:
    """What a stage leaves for W&B; asked for when the stage has done its work.

    Attributes:
        artifacts: by name; those whose file is not there are left out.
        uses: (artifact, alias) of what the stage was made from.
        curves: a CSV with a column `epoch`; each row is logged. None, or not there: no curves.
        pictures: a table of them is logged, if there are any.
        tables: name to (columns, rows).
        review: content of a W&B report; see `components.report.review`.
    """

    artifacts: Mapping[str, Logged] = field(default_factory=dict)
    uses: Sequence[tuple[str, str]] = ()
    curves: Path | None = None
    pictures: Sequence[Picture] = ()
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]] = field(
        default_factory=dict
    )
    review: dict[str, Any] | None = None


@contextmanager
def stage_run(
    stage: str,
    project: str,
    group: str,
    config: dict[str, Any],
    folder: Path,
    outputs: Callable[[], Outputs],
    run_id: str | None = None,
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Record a stage as an offline W&B run.

    Args:
        stage: name and job type of the run.
        project: W&B's.
        group: all stages of a pipeline run share it.
        config: parameters, and what ties the run to data and code.
        folder: where the run's files go (`folder/wandb`).
        outputs: asked when the figures are taken.
        run_id: the same for what would be the same run; None: a new one.

    Yields:
        A function that takes the stage's figures; call it last.
    """
    with ExitStack() as held:
        try:
            run = _start(stage, project, group, config, folder, run_id)
            place = Path(run.dir).resolve().parent
            held.enter_context(at_work(place))
            held.enter_context(_copies_in(place / "data"))
        except Exception as error:  # noqa: BLE001 - logging must never fail the work that is logged
            _say(error)
            yield lambda figures: None
            return

        plan: list[RunPlan] = []

        def finish(figures: dict[str, Any]) -> None:
            try:
                run.summary.update(figures)
                found = outputs()
                logs = _log_outputs(run, found, figures)
                uses = list(found.uses)
                about = (run.id, project, run.settings.entity, stage, group)
                plan.append(RunPlan(*about, uses=uses, logs=logs, review=found.review))
            except Exception as error:  # noqa: BLE001 - as above
                _say(error)

        exit_code = 1
        try:
            yield finish
            exit_code = 0
        finally:
            try:
                run.finish(exit_code=exit_code)
                for item in plan:
                    write_plan(place, item)
            except Exception as error:  # noqa: BLE001 - as above
                _say(error)


@contextmanager
def _copies_in(folder: Path) -> Iterator[None]:
    """Have what waits to be sent lie with its run, and go with it.

    wandb copies each file of an artifact, and puts the copies of all runs in one folder, where
    nothing tells which are still needed. A folder that the user has set stays.
    """
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def _say(error: Exception) -> None:
    print(f"W&B did not take this: {error}", file=sys.stderr)  # noqa: T201 - the one line promised


def _start(
    stage: str, project: str, group: str, config: dict[str, Any], folder: Path, run_id: str | None
) -> Any:
    import wandb

    return wandb.init(
        id=run_id,
        project=project,
        name=stage,
        job_type=stage,
        group=group,
        config=config,
        dir=str(folder.resolve()),  # wandb adds a folder `wandb`
        mode="offline",
        settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
    )


def _log_outputs(run: Any, outputs: Outputs, figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Log them; gives (artifact, alias) of those that were logged."""
    import wandb

    if outputs.curves is not None and outputs.curves.exists():
        run.define_metric("*", step_metric="epoch")
        with outputs.curves.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                run.log({name: float(value) for name, value in row.items() if value})
    tables = {
        name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])
        for name, (columns, rows) in outputs.tables.items()
    }
    if outputs.pictures:
        tables["worst_mistakes"] = wandb.Table(columns=["picture", "path", "title", "detail"])
        for picture in outputs.pictures:
            tables["worst_mistakes"].add_data(
                _image(picture), picture.path, picture.title, picture.detail
            )
    if tables:
        run.log(tables)
    logged = []
    for name, artifact in outputs.artifacts.items():
        if artifact.path.exists():
            made = wandb.Artifact(name, type=artifact.kind, metadata=figures)
            if artifact.path.is_dir():
                made.add_dir(str(artifact.path))
            else:
                made.add_file(str(artifact.path))
            aliases = ["latest", artifact.alias] if artifact.alias else ["latest"]
            run.log_artifact(made, aliases=aliases)
            logged.append((name, artifact.alias or "latest"))
    return logged


def _image(picture: Picture) -> Any:
    """A picture as W&B shows it, with boxes that can be switched on and off by kind."""
    import wandb

    names = sorted({box["label"] for boxes in picture.boxes.values() for box in boxes})
    drawn = {
        kind: {
            "box_data": [
                {
                    "position": {
                        "minX": box["left"],
                        "maxX": box["right"],
                        "minY": box["top"],
                        "maxY": box["bottom"],
                    },
                    "class_id": names.index(box["label"]),
                    "box_caption": box["label"],
                    **({} if box["score"] is None else {"scores": {"score": box["score"]}}),
                }
                for box in boxes
            ],
            "class_labels": dict(enumerate(names)),
        }
        for kind, boxes in picture.boxes.items()
    }
    image = str(picture.image) if isinstance(picture.image, Path) else picture.image
    return wandb.Image(image, boxes=drawn or None)
