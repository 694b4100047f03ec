"""Slices: which images they hold, the worst first, with intervals that equal plain resampling."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.errors import DataError
from components.evaluation.bootstrap import drawn_weights
from components.evaluation.classification import evaluate_classification
from components.evaluation.image_columns import user_columns
from components.evaluation.slices import MAX_VALUES, MIN_IMAGES, make_slices, measure_slices

sys.path.insert(0, str(Path(__file__).parents[1]))
from data_helpers import make_store

COUNT = 40


@pytest.mark.parametrize(
    ("reason", "values", "wanted"),
    [
        ("all alike", ["a"] * COUNT, {}),
        ("words", ["a", "b"] * 20, {"a": 20, "b": 20}),
        ("too few are left out", ["a"] * 35 + ["b"] * 5, {"a": 35}),
        ("truth values are words", [True, False] * 20, {"True": 20, "False": 20}),
        ("missing", ["a"] * 20 + [None] * 20, {"a": 20, "(none)": 20}),
        ("few numbers are words", [1, 2.0] * 20, {"1": 20, "2": 20}),
        (
            "numbers, at their quartiles",
            list(range(COUNT)),
            {"0 to 9.75": 10, "9.75 to 19.5": 10, "19.5 to 29.2": 10, "29.2 to 39": 10},
        ),
        (
            "numbers, some missing",
            [float("nan")] * 10 + list(range(30)),
            {"(none)": 10},  # the quartiles hold 7 or 8 each
        ),
        ("most are equal", [0] * 34 + [1, 2, 3, 4, 5, 6], {"0 to 6": 40}),
        ("every image its own", [str(i) for i in range(COUNT)], {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_columns_become_slices(reason, values, wanted):
    slices = make_slices({"column": values})
    got = {item.value: len(item.images) for item in slices}
    if reason == "most are equal":
        # Quartiles fall together; nothing is told apart.
        assert len(got) <= 1
    else:
        assert got == wanted
    for item in slices:
        assert len(set(item.images)) == len(item.images) >= MIN_IMAGES


def test_of_many_values_the_most_frequent_are_taken():
    values = [f"v{i:02d}" for i in range(MAX_VALUES + 10) for _ in range(MIN_IMAGES + i)]
    slices = make_slices({"camera": values})
    assert len(slices) == MAX_VALUES
    assert {item.value for item in slices} == {f"v{i:02d}" for i in range(10, MAX_VALUES + 10)}


def test_a_column_of_any_type_of_pandas_is_taken():
    for values in (
        pd.Series(["a", "b"] * 20, dtype="string"),
        pd.Series(["a", "b"] * 20, dtype="category"),
        pd.Series([1, None] * 20, dtype="Int64"),
        pd.Series([1.5, None] * 20, dtype="Float64"),
        pd.Series(["x", 3] * 20, dtype=object),
    ):
        assert len(make_slices({"c": values.set_axis(range(100, 140))})) == 2


def test_the_worst_slice_stands_first_with_its_count_and_interval():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 90)
    camera = np.array(["old", "new", "new"] * 30)
    wrong = (camera == "old") & (rng.random(90) < 0.6)
    probabilities = np.full((90, 3), 0.1)
    probabilities[np.arange(90), np.where(wrong, (targets + 1) % 3, targets)] = 0.8
    result = evaluate_classification(
        probabilities,
        targets,
        "abc",
        split="test",
        columns={"camera": camera, "alike": np.ones(90)},
        bootstrap=500,
    )
    worst, best = result.details["slices"]
    assert (worst["column"], worst["value"], worst["num_images"]) == ("camera", "old", 30)
    assert worst["figure"] == pytest.approx(1 - wrong.sum() / 30)
    assert worst["low"] < worst["figure"] < worst["high"] < result.details["headline"]["accuracy"]
    assert (best["value"], best["figure"], best["low"], best["high"]) == ("new", 1, 1, 1)


def test_intervals_equal_drawing_the_images_of_the_slice():
    values = np.random.default_rng(1).random(COUNT)
    slices = make_slices({"half": ["a"] * 20 + ["b"] * 20})

    def measure(images, weights):
        return weights @ values[images] / weights.sum(axis=1)

    rows = measure_slices(slices, measure, 50, seed=3)
    for item in slices:
        row = next(row for row in rows if row["value"] == item.value)
        weights = np.concatenate(list(drawn_weights(20, 50, 3)))
        drawn = [np.repeat(values[item.images], w.astype(int)).mean() for w in weights]
        assert (row["low"], row["high"]) == pytest.approx(np.quantile(drawn, [0.025, 0.975]))
    assert "low" not in measure_slices(slices, measure, 0, seed=3)[0]


def test_a_slice_without_a_figure_is_left_out():
    slices = make_slices({"half": ["a"] * 20 + ["b"] * 20})

    def measure(images, weights):
        return np.full(len(weights), np.nan if images[0] == 0 else 0.5)

    assert [row["value"] for row in measure_slices(slices, measure, 20, seed=0)] == ["b"]


def test_columns_of_the_user_are_those_of_the_image(tmp_path):
    store = make_store(tmp_path / "prepared", "classification", 12)
    tables = tmp_path / "tables"
    assert user_columns(tables, store, np.arange(3)) == {}
    tables.mkdir()
    table = store.index[["image_id", "path"]].assign(camera=store.index["path"].str.upper())
    table.sample(frac=1, random_state=0).to_parquet(tables / "images.parquet")
    rows = np.array([7, 2, 5])
    columns = user_columns(tables, store, rows)
    assert list(columns) == ["camera"]
    assert list(columns["camera"]) == list(store.index["path"].iloc[rows].str.upper())
    table.iloc[:6].to_parquet(tables / "images.parquet")
    with pytest.raises(DataError, match=r"has no image .* run the preprocess stage again"):
        user_columns(tables, store, rows)
