"""The same data gives the same tables, whatever format it is in."""

import pytest
from five_formats import FORMATS, facts, make, write

from components.contract.readers import read_dataset
from components.validation.run import validate_reading
from components.validation.settings import ValidateSettings

SETTINGS = ValidateSettings(num_workers=1)


def validated(root, format, task, classes=None):
    return validate_reading(read_dataset(root, format, task, classes), SETTINGS)


@pytest.mark.parametrize("split", [True, False], ids=["splits given", "no splits"])
@pytest.mark.parametrize("task", FORMATS)
def test_the_same_data_gives_the_same_tables(task, split, tmp_path):
    raw = make(task, seed=3, split=split)
    if task == "detection":
        raw.samples[5].things = []  # background
    results = {
        format: validated(write(raw, tmp_path / format, format), "auto", task)
        for format in FORMATS[task]
    }
    for format, result in results.items():
        assert result.reading.format == format, "found by itself"
        errors = [str(item) for item in result.findings if item.severity == "error"]
        assert result.dataset is not None, (format, errors)
    first, *others = FORMATS[task]
    for other in others:
        assert facts(results[other].dataset) == facts(results[first].dataset), other
    numbers = {format: len(result.dataset.objects) for format, result in results.items()}
    assert set(numbers.values()) == {sum(len(sample.things) for sample in raw.samples)}


@pytest.mark.parametrize(
    "task, format", [(task, format) for task in FORMATS for format in FORMATS[task]]
)
def test_a_clean_set_has_nothing_to_report(task, format, tmp_path):
    raw = make(task, seed=4)
    result = validated(write(raw, tmp_path / "raw", format), format, task)
    assert [str(finding) for finding in result.findings] == []


@pytest.mark.parametrize(
    "task, format", [(task, format) for task in FORMATS for format in FORMATS[task]]
)
def test_the_order_of_the_classes_can_be_given(task, format, tmp_path):
    raw = make(task, seed=5)
    root = write(raw, tmp_path / "raw", format)
    result = validated(root, format, task, ["dog", "bird", "cat"])
    assert result.dataset.classes == ("dog", "bird", "cat")


def test_the_maker_repeats_itself_and_makes_no_two_images_alike():
    one, two = make("detection", seed=1), make("detection", seed=1)
    assert one == two
    assert len({sample.data for sample in one.samples}) == len(one.samples)
    assert make("detection", seed=2) != one
