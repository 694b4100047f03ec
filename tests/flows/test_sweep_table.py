"""The table of a sweep, and the best parameters as a change of params.yaml."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from flows.sweep_table import apply, best, params_diff, text_table, write_table
from flows.sweep_trial import Row


def row(number: int, lr: float, score: float | None, test: float = 0.5) -> Row:
    values = {"train.lr": lr, "preprocess.image_size": [64, 96]}
    if score is None:
        return Row(number, values, "failed", reason='train: nothing\nwas learnt, "at all"')
    figures = {"monitor": "val/map", "best": score, "best_epoch": 2, "num_epochs": 3}
    figures["evaluate"] = {"split": "test", "map": test, "map_50": 0.9}
    return Row(number, values, "done", f"key{number}", 12.34, figures)


ROWS = [row(1, 0.1, None), row(2, 0.2, 0.25, 0.99), row(3, 0.3, 0.5, 0.1), row(4, 0.4, 0.5, 0.2)]


def test_the_best_is_chosen_on_val_and_of_equals_the_first() -> None:
    chosen = best(ROWS)
    assert chosen is not None
    assert chosen.number == 3
    assert best([ROWS[0]]) is None
    assert best([]) is None


def test_table_files(tmp_path: Path) -> None:
    table, whole = write_table(ROWS, tmp_path)
    with table.open(newline="") as file:
        records = list(csv.DictReader(file))
    assert [record["trial"] for record in records] == ["3", "4", "2", "1"]
    assert records[0] == {
        "trial": "3",
        "status": "done",
        "train.lr": "0.3",
        "preprocess.image_size": "[64, 96]",
        "val/map": "0.5",
        "best_epoch": "2",
        "num_epochs": "3",
        "test/map": "0.1",
        "seconds": "12.3",
        "key": "key3",
        "reason": "",
    }
    assert records[3]["reason"] == ROWS[0].reason
    assert records[3]["val/map"] == ""
    kept = json.loads(whole.read_text())
    assert kept[0]["figures"]["evaluate"]["map_50"] == 0.9
    assert write_table([ROWS[0]], tmp_path)[0].read_text().startswith("trial,status,train.lr,")


def test_no_figure_of_val_is_called_test(tmp_path: Path) -> None:
    figures = {**ROWS[1].figures, "evaluate": {"split": "val", "map": 0.25}}
    text = text_table([Row(1, {}, "done", figures=figures)])
    assert "test" not in text
    assert text.count("val/map") == 1


def test_text_table_is_aligned() -> None:
    lines = text_table(ROWS).splitlines()
    assert len(lines) == 5
    assert lines[0].split()[:4] == ["trial", "status", "train.lr", "preprocess.image_size"]
    place = lines[0].index("val/map")
    assert [line[place : place + 4].strip() for line in lines[1:]] == ["0.5", "0.5", "0.25", ""]


def test_diff_then_apply(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    text = "train:\n  lr: 0.1   # rate\n  epochs: 3\npreprocess:\n  image_size: [64, 96]"
    params.write_text(text)
    diff = params_diff(ROWS[2], params)
    assert diff.splitlines()[0].startswith("--- params.yaml")
    changed = [line for line in diff.splitlines()[2:] if line[0] in "+-"]
    assert changed == ["-  lr: 0.1   # rate", "+  lr: 0.3   # rate"]
    assert params.read_text() == text
    apply(ROWS[2], params)
    assert params.read_text() == text.replace("0.1 ", "0.3 ")
    assert params_diff(ROWS[2], params) == ""
    params.write_bytes(text.replace("\n", "\r\n").encode())
    apply(ROWS[2], params)
    assert params.read_bytes().decode() == text.replace("0.1 ", "0.3 ").replace("\n", "\r\n")
