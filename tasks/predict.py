"""Predict with an exported model: the ONNX file is all that is needed.

    python -m tasks.predict models/model.onnx IMAGE… [--draw OUT.png]

Prints JSON: an object for one image, a list for several. A model for several labels an image gives
`labels`, those that reach the thresholds in the file, or --threshold. Boxes are [x1, y1, x2, y2] in
pixels of the image, upright. With --draw, writes a picture (one image) or a folder of pictures
(several).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from components.errors import TimmflowError

_DETECTION_THRESHOLD = 0.3  # of what is shown; a detector's own is low, to be measured with


def predict(
    model: Path, images: list[Path], draw: Path | None, threshold: float | None = None
) -> list[Any]:
    """Predictions on image files, in order.

    Args:
        model: the ONNX file.
        images: image files.
        draw: picture to write, or folder of pictures where there are several images.
        threshold: detections or labels with a smaller score are left out; None for 0.3, or for the
            thresholds that a model for several labels an image was given in training.

    Returns:
        For each image a dict: `image` and what `OnnxPredictor.predict` gives.

    Raises:
        TimmflowError: the model or an image cannot be used; names the file.
    """
    from components.contract.pixels import load_rgb
    from components.export.predictor import OnnxPredictor

    predictor = OnnxPredictor(model)
    if threshold is None and predictor.task == "detection":
        threshold = _DETECTION_THRESHOLD
    results = []
    for path in images:
        pixels = load_rgb(path)
        answer = predictor.predict([pixels], threshold)[0]
        results.append({"image": str(path), **answer})
        if draw is not None:
            target = draw if len(images) == 1 else draw / f"{path.stem}.png"
            _draw(pixels, answer, predictor.classes, target)
    return results


def _draw(pixels: Any, answer: dict[str, Any], classes: list[str], target: Path) -> None:
    from PIL import Image

    from components.evaluation.pictures import (
        Box,
        NamedLabel,
        draw_boxes,
        draw_caption,
        draw_labels,
    )
    from components.files import atomic_path

    if "detections" in answer:
        boxes = []
        for found in answer["detections"]:
            x1, y1, x2, y2 = found["box"]
            boxes.append(
                Box(
                    (x1, y1, x2 - x1, y2 - y1),
                    found["label"],
                    found["score"],
                    class_id=classes.index(found["label"]),
                )
            )
        picture = draw_boxes(pixels, boxes)
    elif "labels" in answer:
        labels = [NamedLabel(found["label"], found["score"]) for found in answer["labels"]]
        picture = draw_labels(pixels, labels)
    else:
        picture = draw_caption(pixels, next(iter(answer["probabilities"].items())))
    with atomic_path(target) as draft:
        Image.fromarray(picture).save(draft)


def _check_drawing(parser: argparse.ArgumentParser, draw: Path, images: list[Path]) -> None:
    """Refuse a place for pictures that cannot be written, before any work is done."""
    from PIL import Image

    if len(images) > 1 and len({path.stem for path in images}) < len(images):
        parser.error("--draw: two images have the same name; draw them one by one")
    if len(images) == 1 and (
        draw.is_dir() or draw.suffix.lower() not in Image.registered_extensions()
    ):
        parser.error(f"--draw {draw}: must name a picture file, for example out.png")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="the ONNX file")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--draw", type=Path, metavar="OUT", help="write a picture of the result")
    parser.add_argument(
        "--threshold",
        type=float,
        help="smallest score of a detection (default 0.3) or of one of several labels (default: "
        "as chosen in training, for each class)",
    )
    args = parser.parse_args(argv)
    if args.draw is not None:
        _check_drawing(parser, args.draw, args.images)
    try:
        results = predict(args.model, args.images, args.draw, args.threshold)
    except TimmflowError as error:
        print(f"error: predict: {error}", file=sys.stderr)
        return 1
    shown = results[0] if len(results) == 1 else results
    print(json.dumps(shown, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
