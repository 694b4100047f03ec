"""The only module that talks to wandb.

A stage run is a W&B run: job type = stage, group = pipeline run. Runs are always written offline,
which takes a second and no network; sending them is a step of its own (`tasks.publish`). What W&B
cannot do, it says in one line: it never fails a stage.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.files import read_json


@dataclass(frozen=True)
class Outputs:
    """What a stage leaves for W&B, as paths; what is not there is left out.

    Attributes:
        artifacts: {name: (type, file or folder)}.
        curves: a CSV with a column `epoch`; each row is logged.
        pictures: a folder with `details.json` whose `mistakes` become a table of pictures.
    """

    artifacts: Mapping[str, tuple[str, Path]] = field(default_factory=dict)
    curves: Path | None = None
    pictures: Path | None = None


@contextmanager
def stage_run(
    stage: str, project: str, group: str, config: dict[str, Any], folder: Path, outputs: Outputs
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Record a stage as an offline W&B run.

    Args:
        stage: name and job type of the run.
        project: W&B's.
        group: all stages of a pipeline run share it.
        config: parameters, and what ties the run to data and code.
        folder: where the run's files go (`folder/wandb`).
        outputs: logged when the block ends well.

    Yields:
        A function that takes the stage's figures; call it last.
    """
    try:
        run = _start(stage, project, group, config, folder)
    except Exception as error:  # noqa: BLE001 - logging must never fail the work that is logged
        _say(error)
        yield lambda figures: None
        return

    def finish(figures: dict[str, Any]) -> None:
        try:
            run.summary.update(figures)
            _log_outputs(run, outputs, figures)
        except Exception as error:  # noqa: BLE001 - as above
            _say(error)

    exit_code = 1
    try:
        yield finish
        exit_code = 0
    finally:
        try:
            run.finish(exit_code=exit_code)
        except Exception as error:  # noqa: BLE001 - as above
            _say(error)


def _say(error: Exception) -> None:
    print(f"W&B did not take this: {error}", file=sys.stderr)  # noqa: T201 - the one line promised


def _start(stage: str, project: str, group: str, config: dict[str, Any], folder: Path) -> Any:
    import wandb

    return wandb.init(
        project=project,
        name=stage,
        job_type=stage,
        group=group,
        config=config,
        dir=str(folder.resolve()),  # wandb adds a folder `wandb`
        mode="offline",
        settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
    )


def _log_outputs(run: Any, outputs: Outputs, figures: dict[str, Any]) -> None:
    import wandb

    if outputs.curves is not None and outputs.curves.exists():
        run.define_metric("*", step_metric="epoch")
        with outputs.curves.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                run.log({name: float(value) for name, value in row.items()})
    if outputs.pictures is not None and (outputs.pictures / "details.json").exists():
        mistakes = read_json(outputs.pictures / "details.json")["mistakes"]
        table = wandb.Table(columns=["picture", "path", "title", "detail"])
        for mistake in mistakes:
            picture = wandb.Image(str(outputs.pictures / mistake["picture"]))
            table.add_data(picture, mistake["path"], mistake["title"], mistake["detail"])
        run.log({"worst_mistakes": table})
    for name, (kind, path) in outputs.artifacts.items():
        if path.exists():
            artifact = wandb.Artifact(name, type=kind, metadata=figures)
            if path.is_dir():
                artifact.add_dir(str(path))
            else:
                artifact.add_file(str(path))
            run.log_artifact(artifact)


def offline_runs(folder: Path) -> list[Path]:
    """Runs that have not been sent yet, oldest first."""
    found = sorted((folder / "wandb").glob("offline-run-*"))
    return [run for run in found if not list(run.glob("*.synced"))]


def sync(run: Path, timeout: float) -> None:
    """Send one offline run.

    Raises:
        RuntimeError: it did not go through within `timeout` seconds; says what wandb said.
    """
    command = [sys.executable, "-m", "wandb", "sync", "--no-include-synced", str(run)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no answer within {timeout:.0f} s") from None
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
