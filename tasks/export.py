"""Write the model as one self-sufficient ONNX file, and prove that it gives what PyTorch gives.

Reads `models/trained/` and `data/prepared/`; writes `models/model.onnx`, which appears only if it
agrees with PyTorch on real images, the other `export.formats` to `models/formats/`, each only if it
passes its own test, and what was found out about each to `reports/export.json`. Parameters:
sections `base`, `evaluate` (thresholds), `export`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from components.errors import ExportError
from components.files import atomic_path, rounded, write_json
from components.hidden import hidden, secrets_of
from tasks.layout import Layout
from tasks.params import Params
from tasks.repository import git_revision
from tasks.stage import Figures, main

if TYPE_CHECKING:
    import numpy as np

    from components.data.store import PreparedStore
    from components.export.formats import Candidate
    from components.export.parity import Outputs
    from components.models.saved_model import ModelDescription


def export(params: Params, layout: Layout) -> Figures:
    """Export, compare, measure, and only then put the files in place.

    Returns:
        Of the float32 file `megabytes`, `latency_ms_p50`, `latency_ms_p95` (one image, all cores),
        `num_parity_images`, `num_compared`, `max_score_difference`, `min_iou`; of all together
        `num_published`, `num_rejected`.

    Raises:
        ExportError: the exporter refuses the model, or the float32 file is not equal to it.
    """
    from components.runtime import configure_torch

    configure_torch()

    from components.data.geometry import fit, uncropped
    from components.data.store import PreparedStore
    from components.export.formats import Images, write_formats
    from components.models.saved_model import load_for_inference

    settings = params.export
    store = PreparedStore.open(layout.prepared)
    model, description = load_for_inference(layout.weights, **params.evaluate.thresholds())
    split = "val" if len(store.rows("val")) else store.evaluated_split(params.evaluate.split)
    rows = _spread(store.rows(split), settings.parity_images)
    num_training = settings.calibration_images if "int8" in settings.formats else 0
    training = _spread(store.rows("train"), num_training)
    size, crops = description.image_size, description.resize == "crop"

    def pixels(chosen: np.ndarray) -> list[np.ndarray]:
        fitted = [fit(store.image(row), size, description.resize) for row in chosen]
        if settings.input_size == "any" and crops:
            fitted = [uncropped(image, size, description.crop_fraction) for image in fitted]
        return fitted

    images = Images(
        pixels(rows),
        pixels(training),
        lambda outputs: metric(store, rows, outputs, description),
        lambda outputs: metric(store, training, outputs, description),
    )
    # The file goes to people who see neither parameters nor environment.
    stated = hidden(settings.license, secrets_of(os.environ))
    facts = {"git_revision": git_revision(layout.root), "license": stated}
    threshold = 0.0
    if description.task == "detection":
        threshold = params.evaluate.score_threshold
        facts |= {name: json.dumps(value) for name, value in params.evaluate.thresholds().items()}
    with atomic_path(layout.onnx) as draft, atomic_path(layout.formats) as folder:
        folder.mkdir()
        candidates, torch_metric = write_formats(
            model, description, images, settings, threshold, facts, draft, folder
        )
        rows_of_table = [_row(candidate, layout) for candidate in candidates]
        details = {
            "metric": "accuracy" if _one_label(description) else "map",
            "split": split,
            "num_images": len(rows),
            "pytorch": torch_metric,
            "formats": rows_of_table,
        }
        write_json(layout.export_details, rounded(details))
        if candidates[0].reasons:
            raise ExportError(
                "the ONNX file is not equal to the model, so that nothing was published: "
                f"{'; '.join(candidates[0].reasons)} (on {len(rows)} images; tolerances are "
                "export.score_tolerance and export.iou_tolerance; a model that finds nothing needs "
                "a lower evaluate.score_threshold, or longer training)"
            )
        # The folder is never empty, and says what is in it.
        published = [row for row in rows_of_table if row["published"]]
        write_json(folder / "formats.json", {row["format"]: row["file"] for row in published})
    fp32 = candidates[0].figures
    names = ("megabytes", "latency_ms_p50", "latency_ms_p95")
    parity = ("num_compared", "max_score_difference", "min_iou")
    num_rejected = sum(bool(candidate.reasons) for candidate in candidates)
    return {
        **{name: fp32[name] for name in names},
        "num_parity_images": len(rows),
        **{name: fp32["parity"][name] for name in parity},
        "num_published": len(candidates) - num_rejected,
        "num_rejected": num_rejected,
    }


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows from all over a split, whose order may be by class."""
    import numpy as np

    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def metric(
    store: PreparedStore,
    rows: np.ndarray,
    outputs: Sequence[Outputs],
    description: ModelDescription,
) -> float | None:
    """What the evaluate stage would call the model's main figure, on some rows.

    Args:
        store: of the images.
        rows: of it.
        outputs: of batches, in the order of `rows`.
        description: of the model.

    Returns:
        Accuracy, or mean average precision; None where there is nothing to find.
    """
    import numpy as np

    classes = description.classes
    if description.task == "detection":
        from components.evaluation.coco_figures import accumulate
        from components.evaluation.coco_matching import match_all
        from components.evaluation.prepared import predicted_objects, true_objects

        sizes = np.cumsum([len(batch[0]) for batch in outputs])[:-1]
        batches = zip(np.split(rows, sizes), outputs, strict=True)
        matches = match_all(
            true_objects(store, rows),
            predicted_objects(store, batches),
            store.index["image_id"].to_numpy()[rows],
            len(classes),
        )
        return accumulate(matches).numbers().get("map")
    probabilities = np.concatenate([batch[0] for batch in outputs])
    if _one_label(description):
        return float((probabilities.argmax(axis=1) == [store.label(row) for row in rows]).mean())
    from components.evaluation.bootstrap import mean_defined
    from components.evaluation.multi_label import average_precisions

    truth = np.array([store.label_vector(row) for row in rows]).astype(bool)
    return float(mean_defined(average_precisions(probabilities, truth))) if truth.any() else None


def _one_label(description: ModelDescription) -> bool:
    return description.task == "classification" and not description.multi_label


def _row(candidate: Candidate, layout: Layout) -> dict[str, Any]:
    """A file's line of the table."""
    published = not candidate.reasons
    place = layout.onnx if candidate.kind == "fp32" else layout.formats / candidate.path.name
    return {
        "format": candidate.kind,
        "file": place.relative_to(layout.root).as_posix(),
        "published": published,
        "reasons": candidate.reasons,
        **candidate.figures,
    }


if __name__ == "__main__":
    sys.exit(main("export", __doc__, export, None))
