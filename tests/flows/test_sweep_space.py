"""Which trials a sweep has, and what is said of a description that cannot be understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import ParamsError
from flows.sweep_space import Range, from_options


def test_every_combination_in_order() -> None:
    options = ["train.lr=1e-3,0.0003", "preprocess.image_size=[64,64],[96, 96]"]
    assert from_options(options, None, None, None).draw() == [
        {"train.lr": 0.001, "preprocess.image_size": [64, 64]},
        {"train.lr": 0.001, "preprocess.image_size": [96, 96]},
        {"train.lr": 0.0003, "preprocess.image_size": [64, 64]},
        {"train.lr": 0.0003, "preprocess.image_size": [96, 96]},
    ]


def test_equal_values_are_one_trial() -> None:
    assert len(from_options(["train.lr=1,1,2"], None, None, None).draw()) == 2


def test_values_are_yaml() -> None:
    option = "train.pretrained=true,null,../yolox.pth,'a,b'"
    choices = from_options([option], None, None, None).choices()
    assert choices == {"train.pretrained": (True, None, "../yolox.pth", "a,b")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2..8", Range(low=2, high=8, whole=True, log=False)),
        ("0.0..0.3", Range(low=0, high=0.3, whole=False, log=False)),
        ("-1..1.5", Range(low=-1, high=1.5, whole=False, log=False)),
        ("log:1e-4..1e-2", Range(low=1e-4, high=1e-2, whole=False, log=True)),
        ("log:4..64", Range(low=4, high=64, whole=True, log=True)),
    ],
)
def test_ranges(text: str, expected: Range) -> None:
    space = from_options([f"train.lr={text}"], None, 40, 3)
    assert space.choices() == {"train.lr": expected}
    drawn = [trial["train.lr"] for trial in space.draw()]
    assert all(expected.low <= value <= expected.high for value in drawn)
    assert all(isinstance(value, int) for value in drawn) == expected.whole
    assert len(set(drawn)) == len(drawn)
    if text == "2..8":
        # There are no more than these; the search for others ends.
        assert sorted(drawn) == [2, 3, 4, 5, 6, 7, 8]
    if text.startswith("log:1e"):
        assert 8 <= sum(value < 1e-3 for value in drawn) <= 32


@pytest.mark.parametrize("option", ["train.lr=log:1e-4..1e-2", "train.lr=1,2,3,4,5,6,7,8,9"])
def test_fewer_trials_are_the_first_of_more(option: str) -> None:
    def draw(trials: int, seed: int) -> list[dict[str, object]]:
        return from_options([option], None, trials, seed).draw()

    assert draw(3, 1) == draw(8, 1)[:3]
    assert draw(8, 1) != draw(8, 2)


def test_file_and_options_together(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "sweep:\n  trials: 4\n  seed: 7\n  parameters:\n"
        "    train.lr: log:0.0001..0.01\n    train.weight_decay: [1e-4, 0]\n"
    )
    space = from_options(["train.lr=5,6"], file, None, 1)
    assert (space.trials, space.seed) == (4, 1)
    assert space.choices() == {"train.lr": (5, 6), "train.weight_decay": (1e-4, 0)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "parameters: Field required"),
        (["train.lr"], "--set train.lr: must be KEY=VALUE,VALUE or KEY=LOW..HIGH"),
        (["train.lr="], "must be KEY=VALUE"),
        (["lr=1"], "lr: no parameter that a sweep can vary"),
        (["evaluate.split=val"], "base, validate, preprocess, train"),
        (["train.lr=[1"], "not a list of values"),
        (["train.lr=log:0..1"], "starts above 0"),
        (["train.lr=5..1"], "from a number to a larger one"),
        (["train.lr=1..x"], "neither a list of values nor a range"),
    ],
)
def test_faulty_options(options: list[str], said: str) -> None:
    with pytest.raises(ParamsError) as caught:
        from_options(options, None, None, None)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {}", "must have a section sweep"),
        ("sweep: [", "not valid YAML"),
        ("sweep: {parameters: {train.lr: 1}}", "parameters"),
        ("sweep: {parameters: {train.lr: []}}", "train.lr: no values"),
        ("sweep: {parameters: {train.lr: [1]}, trails: 3}", "trails: Extra inputs"),
        ("sweep: {parameters: {train.lr: [1]}, trials: 0}", "trials: Input should be greater"),
    ],
)
def test_faulty_files(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(ParamsError) as caught:
        from_options([], file, None, None)
    assert str(file) in str(caught.value)
    assert said in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"absent\.yaml: cannot be read"):
        from_options([], tmp_path / "absent.yaml", None, None)


def test_a_range_needs_a_number_of_trials() -> None:
    with pytest.raises(ParamsError, match=r"train\.lr = 1\.\.3: a range .*--trials"):
        from_options(["train.lr=1..3"], None, None, None).draw()
