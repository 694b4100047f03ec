"""Challenger against champion: may the new model replace the old one?

    python -m tasks.gate CHALLENGER.onnx CHAMPION.onnx   both measured on today's test split
    python -m tasks.gate CHALLENGER.onnx                 no champion yet: absolute floors only
    python -m tasks.gate --replay reports/verdict.json   judge again from what the verdict holds

Reads data/prepared/, data/tables/ (slices), reports/validation.json, and where the challenger is
models/model.onnx also metrics/export.json and metrics/evaluate.json. Writes reports/verdict.json.
Rules: section `gate` of the parameters. Promotes nothing itself; see `python -m tasks.registry`.

exit status: 0 promote; 2 refuse; 1 an error, or a replay that is not the same byte for byte
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError, TimmflowError
from components.files import read_json, sha256, write_text
from tasks.layout import Layout
from tasks.params import Params, command_parser, load

if TYPE_CHECKING:
    from components.data.store import PreparedStore
    from components.export.predictor import OnnxPredictor
    from components.gate.measure import Measured, TestImages

PROMOTE, ERROR, REFUSE = 0, 1, 2


def gate(
    params: Params, layout: Layout, challenger: Path, champion: Path | None = None
) -> dict[str, Any]:
    """Measure both models on the same images and judge.

    Args:
        params: `base`, `evaluate.split`, `evaluate.batch_size`, `export`, and the rules in `gate`.
        layout: of the workspace with today's data.
        challenger: ONNX file that timmflow exported.
        champion: the one in production; None for the first model.

    Returns:
        The verdict; see `components.gate.rules.verdict`.

    Raises:
        TimmflowError: a model or the data cannot be used; nothing was judged.
    """
    from components.data.store import PreparedStore
    from components.evaluation.image_columns import image_table
    from components.export.predictor import OnnxPredictor
    from components.gate.figures import compare
    from components.gate.measure import TestImages, check_task, latencies_ms, measure
    from components.gate.rules import verdict
    from components.gate.slices import slices_of

    store = PreparedStore.open(layout.prepared)
    _check_tables(layout, store)
    images = TestImages(
        store, store.evaluated_split(params.evaluate.split), layout.root / params.base.data
    )
    files = [challenger] if champion is None else [challenger, champion]
    predictors = [OnnxPredictor(path) for path in files]
    for predictor, path in zip(predictors, files, strict=True):
        check_task(predictor, store, str(path))
    metric = main_metric(params, store)
    counts = _images_per_class(images)
    measured = [measure(p, images, metric, params.evaluate.batch_size) for p in predictors]
    times = latencies_ms(predictors, images, params.export.latency_runs)
    facts = [
        _file_facts(*about, store) for about in zip(files, predictors, measured, times, strict=True)
    ]
    known = None
    if champion is not None and facts[1]["lacks"]:
        lacks = facts[1]["lacks"]
        known = [
            i for i, name in enumerate(store.info.classes) if name not in lacks and i in counts
        ]
    figures = {
        "task": store.info.task,
        "metric": metric,
        "split": images.split,
        "data_fingerprint": store.info.fingerprint,
        "seed": params.base.seed,
        "trivial": _trivial(metric, counts, images),
        "challenger": facts[0],
        "champion": facts[1] if champion is not None else None,
        **compare(
            [item.records for item in measured],
            {i: (store.info.classes[i], count) for i, count in counts.items()},
            slices_of(image_table(layout.tables, store, images.rows), params.gate.slices),
            known,
            params.gate,
            params.base.seed,
        ),
        "parity": _parity(params, layout, challenger, facts[0], metric, images),
        "validation": _validation(layout),
    }
    return verdict(figures, params.gate)


def _check_tables(layout: Layout, store: PreparedStore) -> None:
    """Slices are by columns of the tables, so these must be of the images measured."""
    path = layout.tables / "dataset.json"
    if path.exists() and read_json(path).get("fingerprint") != store.info.fingerprint:
        raise DataError(
            f"{layout.prepared}: made from other tables than {layout.tables}; run the preprocess "
            "stage again"
        )


def main_metric(params: Params, store: PreparedStore) -> str:
    """The name of the metric that decides."""
    if params.gate.metric != "main":
        return params.gate.metric
    several = store.info.task == "detection" or store.info.multi_label
    return "map" if several else "accuracy"


def _images_per_class(images: TestImages) -> dict[int, int]:
    """Class id to number of images that it is on, of classes that are on any."""
    store = images.store
    ids = store.index["image_id"].to_numpy()[images.rows]
    table = store.objects[store.objects["image_id"].isin(ids)]
    if "is_crowd" in table.columns:
        table = table[~table["is_crowd"]]
    if table.empty:
        raise DataError(
            f"the {images.split} split has {len(ids)} images and nothing to find, so models "
            "cannot be compared: choose another evaluate.split, or change the data's splits"
        )
    counted = table.groupby("class_id")["image_id"].nunique()
    return dict(zip(counted.index.tolist(), counted.tolist(), strict=True))


def _trivial(metric: str, counts: dict[int, int], images: TestImages) -> float:
    """What a model that has learnt nothing would have on these images."""
    shares = [count / len(images.rows) for count in counts.values()]
    if metric == "accuracy":
        return max(shares)  # it names the most frequent class
    if metric == "balanced_accuracy":
        return 1 / len(shares)
    # Detection: it finds nothing. Several labels: it finds all images alike.
    return sum(shares) / len(shares) if images.store.info.multi_label else 0.0


def _file_facts(
    path: Path,
    predictor: OnnxPredictor,
    measured: Measured,
    latency_ms: float,
    store: PreparedStore,
) -> dict[str, Any]:
    about = predictor.metadata
    return {
        "file": path.name,
        "sha256": sha256(path),
        "git_revision": about.get("git_revision", "unknown"),
        "data_fingerprint": about.get("data_fingerprint", "unknown"),
        "backbone": about.get("backbone", "unknown"),
        "classes": predictor.classes,
        "lacks": [name for name in store.info.classes if name not in predictor.classes],
        "megabytes": path.stat().st_size / 1e6,
        "latency_ms": latency_ms,
        "headline": measured.headline,
    }


def _parity(
    params: Params,
    layout: Layout,
    challenger: Path,
    facts: dict[str, Any],
    metric: str,
    images: TestImages,
) -> dict[str, Any] | None:
    """What `export` and `evaluate` found of the model in PyTorch; None for any other file."""
    if challenger.resolve() != layout.onnx.resolve():
        return None
    exported = read_json(layout.metrics("export"))
    evaluated = read_json(layout.metrics("evaluate"))
    same_file = abs(exported["megabytes"] - facts["megabytes"]) < 1e-6
    same_images = (evaluated["split"], evaluated["num_images"]) == (images.split, len(images.rows))
    if not (same_file and same_images):
        raise DataError(
            f"{layout.root / 'metrics'}: of another model or other images than {challenger} and "
            f"{layout.prepared}; run `dvc repro`"
        )
    return {
        "num_images": exported["num_parity_images"],
        "max_score_difference": exported["max_score_difference"],
        "score_tolerance": params.export.score_tolerance,
        "metric_onnx": facts["headline"][metric],
        "metric_pytorch": evaluated[metric],
    }


def _validation(layout: Layout) -> dict[str, Any] | None:
    """Findings about today's data."""
    if not layout.validation.exists():
        return None
    report = read_json(layout.validation)
    drift = [f for f in report["findings"] if f["check"].startswith("drift-")]
    counts = {"error": report["num_errors"], "warning": report["num_warnings"]}
    for finding in drift:  # judged by themselves
        counts[finding["severity"]] -= 1
    return {
        "num_errors": counts["error"],
        "num_warnings": counts["warning"],
        "num_quarantined": report.get("num_quarantined", 0),
        "drift": sorted(f["check"] for f in drift),
    }


def verdict_text(verdict: dict[str, Any]) -> str:
    """A verdict as the bytes of its file."""
    return json.dumps(verdict, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def table_lines(verdict: dict[str, Any]) -> list[str]:
    """A verdict for the terminal: both models, the rules, the outcome.

    Of rules about classes and slices that passed, only the nearest to its limit is shown.
    """
    figures = verdict["figures"]
    models = [m for m in (figures["challenger"], figures["champion"]) if m is not None]
    names = ["challenger", "champion"][: len(models)]
    rows = [["", *names], ["file", *(model["file"] for model in models)]]
    for name in figures["challenger"]["headline"]:
        values = [model["headline"].get(name) for model in models]
        rows.append([name, *("" if value is None else f"{value:.4f}" for value in values)])
    rows.append(["latency, ms an image", *(f"{model['latency_ms']:.1f}" for model in models)])
    rows.append(["size, MB", *(f"{model['megabytes']:.1f}" for model in models)])
    lines = [f"on {figures['all']['num_images']:,} images of {figures['split']}"]
    lines += [*_aligned(rows), ""]
    shown = [["rule", "about", "measured", "limit", "outcome"]]
    for rule in _shown_rules(verdict["rules"]):
        found = "" if rule["measured"] is None else f"{rule['measured']:.4g}"
        said = rule["outcome"] + (f": {rule['note']}" if rule["note"] else "")
        shown.append([rule["rule"], rule["about"], found, rule["limit"], said])
    lines += _aligned(shown)
    return [*lines, "", outcome_text(verdict)]


def outcome_text(verdict: dict[str, Any]) -> str:
    """What was decided, and a line for each rule that failed."""
    whole, metric = verdict["figures"]["all"], verdict["figures"]["metric"]
    found = f"{metric} {whole['challenger']:.4f}"
    if whole["gain"] is not None:
        found += (
            f", was {whole['champion']:.4f}: {verdict['comparison']}, gain {whole['gain']:+.4f} "
            f"({whole['low']:+.4f} to {whole['high']:+.4f})"
        )
    reasons = verdict["reasons"]
    why = "".join(f"\n  failed: {reason}" for reason in reasons)
    return f"gate: {verdict['outcome']}: {found}{why}"


def _shown_rules(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    nearest: dict[str, dict[str, Any]] = {}
    for rule in rules:
        if rule["about"] and rule["outcome"] == "pass":
            other = nearest.setdefault(rule["rule"], rule)
            if rule["measured"] < other["measured"]:
                nearest[rule["rule"]] = rule
    kept = [r for r in rules if not r["about"] or r["outcome"] == "fail"]
    kept += list(nearest.values())
    return [rule for rule in rules if any(rule is other for other in kept)]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def replay(path: Path) -> tuple[dict[str, Any], bool]:
    """A verdict made again from what its file holds, and whether it gives the same bytes.

    Raises:
        DataError: it is no verdict of this version.
    """
    from pydantic import ValidationError

    from components.gate import rules

    old = read_json(path)
    if not isinstance(old, dict) or old.get("format") != 1:
        raise DataError(f"{path}: not a verdict of format 1, as `python -m tasks.gate` writes it")
    try:
        again = rules.replay(old)
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise DataError(f"{path}: not a whole verdict: {type(error).__name__}: {error}") from None
    return again, verdict_text(again) == path.read_text(encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = command_parser("gate", __doc__)
    parser.add_argument("challenger", nargs="?", type=Path, metavar="CHALLENGER.onnx")
    parser.add_argument("champion", nargs="?", type=Path, metavar="CHAMPION.onnx")
    parser.add_argument("--replay", type=Path, metavar="VERDICT", help="judge a verdict again")
    parser.add_argument("--out", type=Path, help="verdict to write (default reports/verdict.json)")
    args = parser.parse_args(argv)
    if (args.challenger is None) == (args.replay is None):
        parser.error("name a challenger (and a champion), or --replay a verdict")
    try:
        if args.replay is not None:
            verdict, same = replay(args.replay)
        else:
            layout = Layout()
            verdict = gate(load(args.params), layout, args.challenger, args.champion)
            write_text(args.out or layout.verdict, verdict_text(verdict))
            same = True
    except TimmflowError as error:
        print(f"error: gate: {error}", file=sys.stderr)
        return ERROR
    print("\n".join(table_lines(verdict)))
    if not same:
        print(
            f"error: gate: {args.replay}: its figures and rules do not give these bytes: it was "
            "changed by hand, or written by another version",
            file=sys.stderr,
        )
        return ERROR
    return PROMOTE if verdict["outcome"] == "promote" else REFUSE


if __name__ == "__main__":
    sys.exit(main())
