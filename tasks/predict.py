"""Predict with an exported model: the ONNX file is all that is needed.

    python -m tasks.predict models/model.onnx photo.jpg
    python -m tasks.predict models/model.onnx photos 'more/*.png' --draw drawn > predictions.jsonl
    find . -name '*.jpg' | python -m tasks.predict models/model.onnx - --format csv --output all.csv

An INPUT is an image file, a folder, a pattern in quotes, or - for a list on standard input, one a
line. Results come in the order of the inputs. An image that cannot be used is reported on standard
error, by name and reason, and the others go on; the exit code is then 1.

A line of JSON has `image`, `width`, `height` and: `detections`, each with `label`, `score` and
`box` [x1, y1, x2, y2] in pixels of the image, upright; or `probabilities` of all classes; a model
for several labels an image gives `labels`, those that reach the thresholds in the file, too.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from components.errors import DataError, TimmflowError

if TYPE_CHECKING:
    from components.inference.predict_files import Result

FORMATS = ("jsonl", "csv", "coco")


def predict(
    model: Path,
    paths: Iterable[Path | DataError],
    sink: TextIO,
    *,
    form: str = "jsonl",
    batch: int = 1,
    threads: int = 0,
    threshold: float | None = None,
    annotations: Path | None = None,
    draw: Path | None = None,
    total: int | None = None,
) -> tuple[int, int]:
    """Write the predictions on images; report those that cannot be used on standard error.

    Args:
        model: the ONNX file.
        paths: image files, as `components.inference.image_paths` gives them.
        sink: of the results.
        form: one of `FORMATS`.
        batch: images a batch.
        threads: of ONNX Runtime; 0 takes one per core.
        threshold: detections or labels with a smaller score are left out; None for 0.3, or for the
            thresholds that a model for several labels an image was given in training.
        annotations: `coco` only, see `CocoIds`.
        draw: folder for drawn pictures.
        total: number of paths, for the progress bar; None if unknown.

    Returns:
        Number of results, and of inputs that could not be used.

    Raises:
        TimmflowError: the model or the annotation file cannot be used, or a picture not written.
    """
    from components.export.predictor import OnnxPredictor
    from components.inference.predict_files import predict_files, shown_threshold
    from components.inference.result_files import CocoIds, coco_results, csv_rows, json_lines

    predictor = OnnxPredictor(model, threads)
    results = predict_files(predictor, paths, shown_threshold(predictor, threshold), batch)
    if form == "coco":
        if predictor.task != "detection":
            raise DataError(f"{model}: a classifier has no COCO results; use jsonl or csv")
        ids = CocoIds(predictor.classes, annotations)
        results = ids.numbered(results)
    if draw is not None:
        from components.inference.drawing import PictureFolder

        results = PictureFolder(draw, predictor.classes).drawn(results)
    progress = _Progress(results, total)
    if form == "coco":
        texts = coco_results(progress, ids.categories)
    elif form == "csv":
        texts = csv_rows(progress, predictor.task)
    else:
        texts = json_lines(progress)
    for text in texts:
        sink.write(text)
        sink.flush()
    return progress.num_good, progress.num_bad


class _Progress:
    """Results, counted, behind a progress bar; their errors are printed as they come."""

    def __init__(self, results: Iterable[Result], total: int | None):
        self._results, self._total = results, total
        self.num_good = self.num_bad = 0

    def __iter__(self) -> Iterator[Result]:
        from tqdm import tqdm

        for result in tqdm(
            self._results, total=self._total, unit=" images", leave=False, disable=None
        ):
            if result.error:
                self.num_bad += 1
                safe = result.error.encode("utf-8", "backslashreplace").decode()
                tqdm.write(f"error: predict: {safe}", file=sys.stderr)
            else:
                self.num_good += 1
            yield result


def _listed(names: Iterable[str]) -> Iterator[str]:
    """The inputs, with the lines of standard input in place of `-`."""
    for name in names:
        if name == "-":
            lines = (os.fsdecode(line).rstrip("\r\n") for line in sys.stdin.buffer)
            yield from filter(None, lines)
        else:
            yield name


@contextmanager
def _standard_output() -> Iterator[TextIO]:
    """Standard output as UTF-8, whatever the locale."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    yield sys.stdout


@contextmanager
def _whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that is there when all is written, or not at all."""
    from components.files import atomic_path

    with atomic_path(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        yield file


def share(text: str) -> float:
    """An argument from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: must be between 0 and 1")
    return value


def count(text: str) -> int:
    """An argument that is a whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=Path, help="the ONNX file")
    add("inputs", nargs="+", metavar="INPUT", help="image file, folder, pattern, or - for a list")
    add("--recursive", action="store_true", help="also look into the folders of folders")
    add("--format", choices=FORMATS, default="jsonl", help="of the results (default: jsonl)")
    add("--output", type=Path, metavar="FILE", help="write the results here, whole or not at all")
    add("--draw", type=Path, metavar="FOLDER", help="write a picture of each result")
    add(
        "--threshold",
        type=share,
        help="smallest score of a detection (default 0.3) or of one of several labels (default: "
        "as chosen in training, for each class)",
    )
    add("--batch", type=count, default=1, help="images a batch (default: 1)")
    add("--threads", type=count, default=0, help="of ONNX Runtime (default: one per core)")
    add(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="for --format coco: take the ids of images and categories from this COCO file, by "
        "name (default: counted from 1)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.annotations is not None and args.format != "coco":
        parser.error("--annotations is for --format coco")
    if args.draw is not None and args.draw.exists() and not args.draw.is_dir():
        parser.error(f"--draw {args.draw}: must name a folder; a file has this name")

    from components.inference.image_paths import image_paths

    paths: Iterable[Path | DataError] = image_paths(_listed(args.inputs), args.recursive)
    total = None
    if "-" not in args.inputs:  # a list from a pipe may be endless
        paths = list(paths)
        total = len(paths)
    sink: AbstractContextManager[TextIO] = (
        _standard_output() if args.output is None else _whole_file(args.output)
    )
    try:
        with sink as file:
            num_good, num_bad = predict(
                args.model,
                paths,
                file,
                form=args.format,
                batch=args.batch,
                threads=args.threads,
                threshold=args.threshold,
                annotations=args.annotations,
                draw=args.draw,
                total=total,
            )
    except TimmflowError as error:
        print(f"error: predict: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads the results has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if num_bad or args.output is not None:
        summary = f"predict: {num_good:,} of {num_good + num_bad:,} inputs"
        print(f"{summary}; {num_bad:,} could not be used" if num_bad else summary, file=sys.stderr)
    return 1 if num_bad else 0


if __name__ == "__main__":
    sys.exit(main())
