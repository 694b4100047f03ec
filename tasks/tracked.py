"""Which facts of a stage go to W&B; how they get there is `components.tracking`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.files import read_json
from tasks.layout import Layout
from tasks.params import Params

if TYPE_CHECKING:
    from components.tracking import Outputs

PROJECT = "timmflow"


def tracked(
    stage: str, params: Params, layout: Layout
) -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
    """Record a stage with W&B, offline; see `components.tracking.stage_run`.

    `WANDB_MODE=disabled` switches it off. `WANDB_PROJECT` and `WANDB_RUN_GROUP` name project and
    group; without the latter the group is the commit and a hash of the parameters.
    """
    if os.environ.get("WANDB_MODE") == "disabled":
        return _untracked()
    data = (layout.root / "wandb").resolve()
    # wandb keeps copies of artifacts in the home directory, and looks up a host to report its own
    # errors to, unless told otherwise.
    os.environ.setdefault("WANDB_DATA_DIR", str(data / "data"))
    os.environ.setdefault("WANDB_CACHE_DIR", str(data / "cache"))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")

    from components.tracking import stage_run
    from tasks.revision import git_revision

    config = params.model_dump(mode="json", by_alias=True)
    config["git_revision"] = git_revision(layout.root)
    if stage not in ("validate", "preprocess"):
        # Lineage that holds offline too: W&B's own needs the server.
        config["data_fingerprint"] = _fingerprint(layout)
    run_hash = hashlib.sha256(params.model_dump_json().encode()).hexdigest()[:6]
    return stage_run(
        stage,
        os.environ.get("WANDB_PROJECT", PROJECT),
        os.environ.get("WANDB_RUN_GROUP", f"{config['git_revision'][:8]}-{run_hash}"),
        config,
        layout.root,
        _outputs(stage, layout),
    )


def _fingerprint(layout: Layout) -> str:
    try:
        return str(read_json(layout.prepared / "dataset.json")["fingerprint"])
    except (DataError, KeyError, TypeError):
        return "unknown"  # the stage itself will say what is wrong


@contextmanager
def _untracked() -> Iterator[Callable[[dict[str, Any]], None]]:
    yield lambda figures: None


def _outputs(stage: str, layout: Layout) -> Outputs:
    from components.tracking import Outputs

    match stage:
        case "validate":
            return Outputs(
                artifacts={
                    "tables": ("dataset", layout.tables),
                    "validation": ("report", layout.validation_page),
                }
            )
        case "train":
            return Outputs(
                artifacts={"weights": ("model", layout.weights)},
                curves=layout.plots / "train.csv",
            )
        case "evaluate":
            return Outputs(pictures=layout.evaluation)
        case "export":
            return Outputs(artifacts={"onnx": ("model", layout.onnx)})
        case "report":
            return Outputs(artifacts={"page": ("report", layout.page)})
    return Outputs()
