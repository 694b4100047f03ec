"""Gather what all stages found; write the page to review and the model card.

They are `reports/index.html` and `reports/model_card.md`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.files import read_json, sha256, write_text
from components.hidden import hidden, secrets_of
from tasks import stage
from tasks.layout import Layout
from tasks.params import Params
from tasks.report_history import previous_version, revision, shown_parameters, version_at

if TYPE_CHECKING:
    import pandas as pd

    from components.report.facts import Facts, Previous

PACKAGES = (
    "timmflow",
    "torch",
    "timm",
    "lightning",
    "torchvision",
    "onnx",
    "onnxruntime",
    "pycocotools",
    "scikit-learn",
    "numpy",
    "pandas",
    "dvc",
    "prefect",
)


def report(params: Params, layout: Layout) -> dict[str, Any]:
    """Write the page and the model card.

    Returns:
        `page`, its path relative to the repository's root, and its size in `megabytes`.

    Raises:
        DataError: an earlier stage has not run, or what it left cannot be read.
    """
    from components.report.advice import advise
    from components.report.model_card import render_model_card
    from components.report.page import render_page

    facts = gather(params, layout)
    page = render_page(facts)
    write_text(layout.page, page)
    write_text(layout.model_card, render_model_card(facts))
    for line in advise(facts).lines:
        print(line, flush=True)
    return {
        "page": layout.page.relative_to(layout.root).as_posix(),
        "megabytes": round(len(page.encode("utf-8")) / 1e6, 2),
    }


def gather(params: Params, layout: Layout) -> Facts:
    """All that the page shows, from the files of the stages, git and this machine.

    Raises:
        DataError: a file is missing or cannot be read; names the stage to run.
    """
    from components.report.facts import Facts

    figures = {
        name: _read(layout.metrics(name), name)
        for name in ("validate", "preprocess", "train", "evaluate", "export")
    }
    prepared = _read(layout.prepared / "dataset.json", "preprocess")
    evaluation = _read(layout.evaluation / "details.json", "evaluate")
    if evaluation["task"] != params.base.task:
        raise DataError(
            f"{layout.evaluation / 'details.json'}: task {evaluation['task']!r} was measured, "
            f"base.task is {params.base.task!r}: run `dvc repro`"
        )
    images, objects = _prepared_tables(layout.prepared)
    parameters = shown_parameters(params)
    told = _retraining(layout.retraining)
    model_sha256 = sha256(layout.onnx) if layout.onnx.is_file() else ""
    return Facts(
        title=hidden(params.report.title, secrets_of(os.environ)),
        made_at=_now(),
        task=params.base.task,
        figures=figures,
        evaluation=evaluation,
        pictures=_pictures(layout.evaluation, evaluation),
        validation=_read(layout.validation, "validate"),
        dataset=_read(layout.tables / "dataset.json", "validate"),
        prepared=prepared,
        images_per_split={str(k): int(n) for k, n in images["split"].value_counts().items()},
        per_class_and_split=_class_counts(images, objects, prepared["classes"]),
        curves=_curves(layout.plots / "train.csv"),
        parameters=list(parameters.items()),
        versions=_versions(),
        machine=_machine(),
        export=_read(layout.export_details, "export"),
        model_sha256=model_sha256,
        revision=revision(layout.root),
        profile=_read(layout.profile, "validate"),
        previous=_previous(layout, told, figures["evaluate"], parameters),
        verdict=_verdict(layout.verdict, model_sha256),
        merged=told.get("merged", ()),
        refused=told.get("refused", {}),
    )


def _missing(path: Path, stage_name: str) -> DataError:
    return DataError(f"{path}: no such file; `dvc repro {stage_name}` writes it")


def _read(path: Path, stage_name: str) -> Any:
    """A JSON file of an earlier stage."""
    if not path.is_file():
        raise _missing(path, stage_name)
    return read_json(path)


def _retraining(path: Path) -> dict[str, Any]:
    """What a retraining has told; empty elsewhere."""
    told: dict[str, Any] = read_json(path) if path.is_file() else {}
    return hidden(told, secrets_of(os.environ))


def _previous(
    layout: Layout,
    told: Mapping[str, Any],
    figures: Mapping[str, Any],
    parameters: Mapping[str, Any],
) -> Previous | None:
    """What this version is compared with: in a retraining its champion, whatever was made since."""
    if not told:
        return previous_version(layout, figures, parameters)
    if not told["champion"]:
        return None
    return version_at(layout, told["commit"], parameters, told["champion"])


def _verdict(path: Path, model_sha256: str) -> dict[str, Any]:
    """The gate's verdict on this very model; empty where it has judged none, or another one."""
    verdict = read_json(path) if path.is_file() else None
    if not isinstance(verdict, dict) or verdict.get("format") != 1 or not model_sha256:
        return {}
    return verdict if verdict["figures"]["challenger"]["sha256"] == model_sha256 else {}


def _prepared_tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    import pandas as pd

    tables = []
    wanted = {"index.parquet": ["image_id", "split"], "objects.parquet": ["image_id", "class_id"]}
    for name, columns in wanted.items():
        if not (folder / name).is_file():
            raise _missing(folder / name, "preprocess")
        try:
            tables.append(pd.read_parquet(folder / name, columns=columns))
        except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
            raise DataError(
                f"{folder / name}: cannot be read: {error}; run `dvc repro preprocess`"
            ) from None
    return tables[0], tables[1]


def _class_counts(
    images: pd.DataFrame, objects: pd.DataFrame, classes: list[str]
) -> dict[str, dict[str, int]]:
    """Class to split to number of rows of `objects`, in the model's order of classes."""
    both = objects.merge(images, on="image_id")
    counts = both.groupby(["class_id", "split"]).size()
    table: dict[str, dict[str, int]] = {name: {} for name in classes}
    for (class_id, split), number in zip(counts.index.tolist(), counts.tolist(), strict=True):
        table[classes[class_id]][str(split)] = int(number)
    return table


def _pictures(folder: Path, evaluation: Mapping[str, Any]) -> dict[str, bytes]:
    pictures = {}
    for entry in [*evaluation["mistakes"], *evaluation.get("suspects", [])]:
        path = folder / entry["picture"]
        if not path.is_file():
            raise _missing(path, "evaluate")
        pictures[entry["picture"]] = path.read_bytes()
    return pictures


def _curves(path: Path) -> list[dict[str, float]]:
    """Rows of the training curves; a cell that is empty is NaN."""
    import pandas as pd

    if not path.is_file():
        return []
    try:
        table = pd.read_csv(path).apply(pd.to_numeric, errors="coerce").astype(float)
    except ValueError as error:
        raise DataError(f"{path}: not a table: {error}; run `dvc repro train`") from None
    rows = table.to_dict("records") if "epoch" in table else []
    return [{str(name): float(value) for name, value in row.items()} for row in rows]


def _now() -> str:
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, str]:
    import psutil

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "Machine": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Processor": f"{processor}, {os.cpu_count()} cores",
        "Memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
    }


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return stage.main("report", __doc__, report, argv)


if __name__ == "__main__":
    raise SystemExit(main())
