"""Write the model as one self-sufficient ONNX file, and prove that it gives what PyTorch gives.

Reads `models/trained/` and `data/prepared/`; writes `models/model.onnx`, which appears only if it
agrees with PyTorch on real images. Parameters: sections `base`, `evaluate` (thresholds), `export`.
"""

from __future__ import annotations

import json
import sys
import time

from components.errors import ExportError
from components.files import atomic_path
from tasks.layout import Layout
from tasks.params import Params
from tasks.revision import git_revision
from tasks.stage import Figures, main, progress_bar

_BATCH_SIZES = (1, 3)  # one, and one that no exporter could have taken for a constant


def export(params: Params, layout: Layout) -> Figures:
    """Export, compare, time, and only then put the file in place.

    Returns:
        `megabytes`, `latency_ms_p50`, `latency_ms_p95` (one image, all cores), `num_parity_images`,
        `num_compared`, `max_score_difference`, `min_iou`.

    Raises:
        ExportError: the exporter refuses the model, or the file is not equal to it.
    """
    from components.runtime import configure_torch

    configure_torch()

    import numpy as np
    import torch

    from components.data.geometry import fit
    from components.data.store import PreparedStore
    from components.export.parity import Parity, compare_detections, compare_probabilities
    from components.export.predictor import OnnxPredictor
    from components.export.write_onnx import write_onnx
    from components.models.saved_model import load_for_inference

    settings = params.export
    store = PreparedStore.open(layout.prepared)
    model, description = load_for_inference(layout.weights, **params.evaluate.thresholds())
    rows = store.rows(store.evaluated_split(params.evaluate.split))[: settings.parity_images]
    images = [fit(store.image(row), description.image_size, description.resize) for row in rows]
    facts = {"git_revision": git_revision(layout.root), "license": settings.license}
    if description.task == "detection":
        facts |= {name: json.dumps(value) for name, value in params.evaluate.thresholds().items()}
    with atomic_path(layout.onnx) as draft:
        write_onnx(model, description, draft, settings.opset, facts)
        predictor = OnnxPredictor(draft)
        parity = Parity()
        starts = [(start, size) for size in _BATCH_SIZES for start in range(0, len(images), size)]
        for start, size in progress_bar(starts, len(starts), "batches"):
            batch = np.stack(images[start : start + size])
            with torch.inference_mode():
                ours = tuple(output.numpy() for output in model(torch.from_numpy(batch)))
            theirs = predictor.run(batch)
            if description.task == "classification":
                parity += compare_probabilities(ours[0], theirs[0])
            else:
                parity += compare_detections(
                    ours,
                    theirs,
                    settings.iou_tolerance,
                    settings.score_tolerance,
                    params.evaluate.score_threshold,
                )
        if parity.num_compared == 0:
            raise ExportError(
                f"the model finds nothing on {len(images)} images, so that the file's equality "
                "cannot be proved: lower evaluate.score_threshold, or train longer"
            )
        if not parity.holds(settings.score_tolerance):
            raise ExportError(
                f"the ONNX file is not equal to the model: of {parity.num_compared} values on "
                f"{len(images)} images {parity.num_unmatched} have no match, and scores differ by "
                f"up to {parity.max_score_difference:.2g} (allowed "
                f"export.score_tolerance = {settings.score_tolerance:g}); nothing was published"
            )
        times = []
        for number in range(settings.latency_runs + 3):
            started = time.perf_counter()
            predictor.run(images[number % len(images)][None])
            times.append(1000 * (time.perf_counter() - started))
        timed = times[3:]  # the first ones warm up
        size_mb = draft.stat().st_size / 1e6
    return {
        "megabytes": size_mb,
        "latency_ms_p50": float(np.percentile(timed, 50)),
        "latency_ms_p95": float(np.percentile(timed, 95)),
        "num_parity_images": len(images),
        "num_compared": parity.num_compared,
        "max_score_difference": parity.max_score_difference,
        "min_iou": parity.min_iou,
    }


if __name__ == "__main__":
    sys.exit(main("export", __doc__, export, None))
