"""The gate on ONNX files and prepared images: outcome, exit status, order, new classes, replay."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.data.store import PreparedStore, write_index
from components.errors import DataError, ModelError, ParamsError
from components.files import read_json, write_json
from components.gate.slices import slices_of
from tasks.gate import gate, main, table_lines, verdict_text
from tasks.layout import Layout
from tasks.params import Params, load

sys.path.insert(0, str(Path(__file__).parents[1]))
from data_helpers import make_store
from gate.tiny_onnx import write_classifier


def parameters(**gate_settings: object) -> Params:
    return Params.model_validate(
        {
            "base": {"task": "classification", "data": "raw"},
            "export": {"latency_runs": 2},
            "train": {"augment": {"scale": [0.5, 1.0]}},
            "gate": {"resamples": 200, "max_latency_ratio": 100, **gate_settings},
        }
    )


@pytest.fixture
def layout(tmp_path) -> Layout:
    """80 images of 3 classes, 16 of them test."""
    make_store(tmp_path / "data" / "prepared", "classification", 80, num_classes=3)
    return Layout(tmp_path)


def model(layout: Layout, name: str, **options) -> Path:
    options = {"classes": ("a", "b", "c")} | options
    return write_classifier(layout.root / f"{name}.onnx", **options)


def failed(verdict: dict) -> set[str]:
    return {rule["rule"] for rule in verdict["rules"] if rule["outcome"] == "fail"}


def test_the_better_model_is_promoted_and_the_worse_refused(layout):
    good, bad = model(layout, "good"), model(layout, "bad", bias=[1000, 0, 0])
    verdict = gate(parameters(), layout, good, bad)
    assert (verdict["outcome"], verdict["comparison"]) == ("promote", "better")
    figures = verdict["figures"]
    assert figures["all"]["challenger"] == figures["challenger"]["headline"]["accuracy"] == 1
    assert figures["classes"]["b"]["champion"] == 0
    other = gate(parameters(), layout, bad, good)
    assert (other["outcome"], other["comparison"]) == ("refuse", "worse")
    assert "gain of accuracy, low end" in failed(other)
    assert other["figures"]["all"]["gain"] == -figures["all"]["gain"]
    text = "\n".join(table_lines(other))
    assert "gate: refuse: accuracy" in text and "failed: gain of accuracy, low end" in text


def test_a_model_against_itself_is_not_told_apart(layout):
    good = model(layout, "good")
    verdict = gate(parameters(), layout, good, good)
    assert verdict["comparison"] == "not told apart"
    assert failed(verdict) == {"gain of accuracy, low end"}
    assert gate(parameters(min_gain=-0.01), layout, good, good)["outcome"] == "promote"


def test_the_first_model_has_only_floors(layout):
    good, trivial = model(layout, "good"), model(layout, "trivial", bias=[1000, 0, 0])
    assert gate(parameters(), layout, good)["outcome"] == "promote"
    assert "accuracy over the trivial model's" in failed(gate(parameters(), layout, trivial))


def without_times(verdict: dict) -> str:
    for model in (verdict["figures"]["challenger"], verdict["figures"]["champion"]):
        model["latency_ms"] = 0
    for rule in verdict["rules"]:
        if rule["rule"].startswith("latency"):
            rule |= {"measured": 0, "note": ""}
    return verdict_text(verdict)


def test_the_order_of_the_images_does_not_matter(layout, tmp_path):
    models = model(layout, "good"), model(layout, "odd", colours=[0, 2, 1])
    first = gate(parameters(), layout, *models)
    store = PreparedStore.open(layout.prepared)
    order = np.random.default_rng(0).permutation(len(store))
    folder = tmp_path / "other" / "data" / "prepared"
    folder.mkdir(parents=True)
    (folder / "images.bin").write_bytes(b"".join(store.image(row).tobytes() for row in order))
    index = store.index.iloc[order].reset_index(drop=True)
    index["offset"] = store.index["offset"]
    write_index(folder, store.info, index, store.objects.sample(frac=1, random_state=0))
    second = gate(parameters(), Layout(tmp_path / "other"), *models)
    assert without_times(first) == without_times(second)


def test_a_champion_without_todays_new_class(layout):
    """It is wrong on the new class; on the old ones the challenger must hold."""
    old = model(layout, "old", classes=("b", "a"), colours=[1, 0])
    verdict = gate(parameters(), layout, model(layout, "good"), old)
    assert verdict["outcome"] == "promote"
    figures = verdict["figures"]
    assert figures["champion"]["lacks"] == ["c"]
    assert figures["classes"]["c"]["champion"] == 0
    assert figures["known_classes"]["champion"] == figures["known_classes"]["challenger"] == 1
    # One that knows the new class, and nothing else.
    verdict = gate(parameters(), layout, model(layout, "new", bias=[0, 0, 1000]), old)
    assert "gain of accuracy on the champion's classes, low end" in failed(verdict)
    # The other way round: the challenger lacks a class.
    assert "classes known" in failed(gate(parameters(), layout, old, model(layout, "good")))


def test_a_class_that_the_data_does_not_have_is_wrong(layout):
    odd = model(layout, "odd", classes=("a", "b", "zebra"))
    verdict = gate(parameters(), layout, model(layout, "good"), odd)
    assert verdict["figures"]["classes"]["c"]["champion"] == 0


def test_a_model_of_another_size_is_shown_the_raw_images(layout):
    from PIL import Image

    store = PreparedStore.open(layout.prepared)
    (layout.root / "raw").mkdir()
    for row, path in enumerate(store.index["path"]):
        big = Image.fromarray(store.image(row)).resize((128, 128), Image.Resampling.NEAREST)
        big.save(layout.root / "raw" / path)
    small = model(layout, "small", size=(32, 32))
    verdict = gate(parameters(), layout, model(layout, "good"), small)
    assert verdict["figures"]["all"]["champion"] == 1


def test_a_model_that_crops_by_itself_is_given_the_border_that_it_cuts_off(layout):
    """Prepared images are cropped already; the graph would crop them once more."""
    path = layout.prepared / "dataset.json"
    write_json(path, read_json(path) | {"crop_fraction": 0.8})
    facts = {"image_size": "[64, 64]", "crop_fraction": "0.8", "input_size": "any"}
    whole = model(layout, "whole", size=(80, 80), **facts)  # takes no images of another size
    verdict = gate(parameters(), layout, whole)
    assert verdict["figures"]["all"]["challenger"] == 1


def test_slices_are_the_users_columns(layout):
    store = PreparedStore.open(layout.prepared)
    layout.tables.mkdir(parents=True)
    write_json(layout.tables / "dataset.json", {"fingerprint": store.info.fingerprint})
    table = store.index[["image_id", "path"]].assign(camera=np.where(store.index.index < 40, 1, 2))
    table.to_parquet(layout.tables / "images.parquet")
    verdict = gate(parameters(), layout, model(layout, "good"))
    slices = verdict["figures"]["slices"]
    assert {name: entry["num_images"] for name, entry in slices.items()} == {
        "camera = 1": 8,
        "camera = 2": 8,
    }
    with pytest.raises(DataError, match=r"gate.slices: lens: the images have no such column"):
        gate(parameters(slices=["lens"]), layout, model(layout, "good"))
    write_json(layout.tables / "dataset.json", {"fingerprint": "other"})
    with pytest.raises(DataError, match="made from other tables"):
        gate(parameters(), layout, model(layout, "good"))


def test_columns_with_many_values_are_no_slices():
    table = pd.DataFrame({"path": range(30), "time": range(30), "same": [1] * 30})
    assert slices_of(table, None) == {}
    with pytest.raises(DataError, match="time: 30 values"):
        slices_of(table, ["time"])


def test_parity_is_of_this_workspaces_model(layout):
    layout.onnx.parent.mkdir()
    good = model(layout, "models/model")
    exported = {"megabytes": good.stat().st_size / 1e6, "num_parity_images": 9}
    write_json(layout.metrics("export"), exported | {"max_score_difference": 1e-6})
    evaluated = {"split": "test", "num_images": 16, "accuracy": 0.5}
    write_json(layout.metrics("evaluate"), evaluated)
    assert failed(gate(parameters(), layout, good)) == {"parity with evaluate"}
    write_json(layout.metrics("evaluate"), evaluated | {"num_images": 15})
    with pytest.raises(DataError, match="of another model or other images"):
        gate(parameters(), layout, good)


def test_findings_of_the_validation_are_judged(layout):
    drift = {"check": "drift-labels", "severity": "warning"}
    report = {"num_errors": 0, "num_warnings": 3, "num_quarantined": 0, "findings": [drift]}
    write_json(layout.validation, report)
    verdict = gate(parameters(max_warnings=2), layout, model(layout, "good"))
    assert failed(verdict) == {"drift since the accepted data"}
    assert "python -m tasks.accept" in verdict["reasons"][0]


def test_models_that_cannot_be_compared(layout):
    good = model(layout, "good")
    with pytest.raises(ModelError, match="no such model file"):
        gate(parameters(), layout, good, layout.root / "none.onnx")
    with pytest.raises(ModelError, match="a model for detection, but the data is for class"):
        gate(parameters(), layout, model(layout, "other", task="detection"))
    with pytest.raises(ModelError, match="knows none of the data's classes"):
        gate(parameters(), layout, model(layout, "far", classes=("x", "y", "z")))


def test_a_metric_of_another_task_is_refused(tmp_path):
    (tmp_path / "p.yaml").write_text("base: {task: detection, data: x}\ngate: {metric: accuracy}\n")
    with pytest.raises(ParamsError, match=r"gate.metric: accuracy .* main, map or map_50"):
        load(tmp_path / "p.yaml")


def test_the_command(layout, monkeypatch, capsys):
    monkeypatch.chdir(layout.root)
    tree = parameters().model_dump(mode="json", by_alias=True, exclude_defaults=True)
    Path("params.yaml").write_text(json.dumps(tree))
    good, bad = model(layout, "good"), model(layout, "bad", bias=[1000, 0, 0])
    assert main([str(bad), str(good)]) == 2
    assert main([str(good), str(bad)]) == 0
    assert "gate: promote: accuracy 1.0000" in capsys.readouterr().out
    before = layout.verdict.read_bytes()
    assert main(["--replay", str(layout.verdict)]) == 0
    assert layout.verdict.read_bytes() == before
    changed = read_json(layout.verdict)
    for place, key, value in (
        (changed, "outcome", "refuse"),
        (changed["figures"]["all"], "challenger_low", 0.99),
        (changed["settings"], "min_gain", 0.5),
    ):
        right = place[key]
        place[key] = value
        write_json(layout.verdict, changed)
        assert main(["--replay", str(layout.verdict)]) == 1
        place[key] = right
    assert "was changed by hand" in capsys.readouterr().err
    assert main(["--replay", str(good)]) == 1
    assert main(["none.onnx"]) == 1
    assert main([str(good), "--out", "x/v.json"]) == 0 and Path("x/v.json").exists()
