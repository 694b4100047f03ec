"""Which facts of a stage go to W&B; how they get there is `components.tracking`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.files import read_json, sha256
from components.hidden import hidden, secrets_of
from tasks.layout import Layout
from tasks.params import Params
from tasks.repository import git_revision

if TYPE_CHECKING:
    from components.tracking.record import Outputs, Picture

PROJECT = "timmflow"


def tracked(
    stage: str, params: Params, layout: Layout
) -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
    """Record a stage with W&B, offline; see `components.tracking.record.stage_run`.

    `WANDB_MODE=disabled` switches it off. `WANDB_PROJECT` and `WANDB_RUN_GROUP` name project and
    group; without the latter the group is the commit and a hash of the parameters.
    """
    if switched_off():
        return _untracked()
    config = params.model_dump(mode="json", by_alias=True)
    config["git_revision"] = git_revision(layout.root)
    if stage not in ("validate", "preprocess"):
        # Lineage that holds offline too: W&B's own needs the server.
        config["data_fingerprint"] = _fingerprint(layout.prepared)
    run_hash = hashlib.sha256(params.model_dump_json().encode()).hexdigest()[:6]
    group = f"{config['git_revision'][:8]}-{run_hash}"
    return recorded(stage, group, config, layout, lambda: _outputs(stage, layout))


def recorded(
    stage: str,
    group: str,
    config: Mapping[str, Any],
    layout: Layout,
    outputs: Callable[[], Outputs],
    run_id: str | None = None,
) -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
    """Record anything as a W&B run, without what the environment has of secrets.

    Args:
        stage: name and job type of the run.
        group: unless `WANDB_RUN_GROUP` names another.
        config, outputs, run_id: see `components.tracking.record.stage_run`.
        layout: of the working copy.
    """
    wandb_folders(layout.root)
    from components.tracking.record import stage_run

    return stage_run(
        stage,
        os.environ.get("WANDB_PROJECT", PROJECT),
        os.environ.get("WANDB_RUN_GROUP", group),
        hidden(config, secrets_of(os.environ)),
        layout.root,
        outputs,
        run_id,
    )


def switched_off() -> bool:
    """Whether nothing is to be recorded with W&B."""
    return os.environ.get("WANDB_MODE") == "disabled"


def wandb_folders(root: Path) -> None:
    """Have wandb keep its files in `root/wandb`, and look nobody up.

    Otherwise copies of artifacts that were sent lie in the home directory, and a host is looked up
    to report wandb's own errors to.
    """
    os.environ.setdefault("WANDB_CACHE_DIR", str((root / "wandb").resolve() / "cache"))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")


def dataset_version(folder: Path) -> tuple[str, str]:
    """The W&B artifact of a data set, by the folder of its tables or of what was made of them."""
    return "dataset", f"data-{_fingerprint(folder)[:16]}"


def onnx_version(md5: str) -> tuple[str, str]:
    """The W&B artifact of an ONNX file, by the MD5 that DVC knows it by."""
    return "onnx", f"md5-{md5}"


def model_version(layout: Layout) -> tuple[str, str]:
    """The W&B artifact of the ONNX file that lies here."""
    with layout.onnx.open("rb") as file:
        return onnx_version(hashlib.file_digest(file, "md5").hexdigest())


def _weights_version(layout: Layout) -> tuple[str, str]:
    return "weights", f"sha256-{sha256(layout.weights / 'weights.safetensors')[:16]}"


def _fingerprint(folder: Path) -> str:
    try:
        return str(read_json(folder / "dataset.json")["fingerprint"])
    except (DataError, KeyError, TypeError):
        return "unknown"  # the stage itself will say what is wrong


@contextmanager
def _untracked() -> Iterator[Callable[[dict[str, Any]], None]]:
    yield lambda figures: None


def _outputs(stage: str, layout: Layout) -> Outputs:
    from components.tracking.record import Logged, Outputs

    match stage:
        case "validate":
            name, alias = dataset_version(layout.tables)
            return Outputs(
                artifacts={
                    name: Logged("dataset", layout.tables, alias),
                    "validation": Logged("report", layout.validation_page),
                }
            )
        case "preprocess":
            return Outputs(uses=[dataset_version(layout.tables)])
        case "train":
            name, alias = _weights_version(layout)
            return Outputs(
                artifacts={name: Logged("model", layout.weights, alias)},
                uses=[dataset_version(layout.prepared)],
                curves=layout.plots / "train.csv",
            )
        case "evaluate":
            return Outputs(
                uses=[dataset_version(layout.prepared), _weights_version(layout)],
                pictures=mistake_pictures(layout),
            )
        case "export":
            name, alias = model_version(layout)
            return Outputs(
                artifacts={name: Logged("model", layout.onnx, alias)},
                uses=[_weights_version(layout)],
            )
        case "report":
            return Outputs(artifacts={"page": Logged("report", layout.page)})
    return Outputs()


def mistake_pictures(layout: Layout) -> list[Picture]:
    """The worst mistakes of the evaluation: a detector's with their boxes apart from the pixels."""
    from components.tracking.record import Picture

    mistakes = read_json(layout.evaluation / "details.json")["mistakes"]
    store, rows = None, {}
    if any("boxes" in mistake for mistake in mistakes):
        from components.data.store import PreparedStore

        store = PreparedStore.open(layout.prepared)
        rows = {path: row for row, path in enumerate(store.index["path"])}
    pictures = []
    for mistake in mistakes:
        words = (mistake["path"], mistake["title"], mistake["detail"])
        if store is None or "boxes" not in mistake:
            pictures.append(Picture(layout.evaluation / mistake["picture"], *words))
            continue
        row = rows[mistake["path"]]
        original = store.index.iloc[row]
        shape = int(original["original_height"]), int(original["original_width"])
        pictures.append(Picture(store.image(row), *words, boxes=_shares(mistake["boxes"], *shape)))
    return pictures


def _shares(boxes: list[dict[str, Any]], height: int, width: int) -> dict[str, list[Any]]:
    """Boxes by kind, as shares of a picture of this size."""
    found: dict[str, list[Any]] = {}
    for box in boxes:
        x, y, w, h = box["xywh"]
        sides = {
            "left": max(0.0, x / width),
            "top": max(0.0, y / height),
            "right": min(1.0, (x + w) / width),
            "bottom": min(1.0, (y + h) / height),
        }
        entry = {"label": box["label"] or "found", "score": box["score"], **sides}
        found.setdefault(box["kind"], []).append(entry)
    return found
