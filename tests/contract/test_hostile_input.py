"""Data that means harm ends in a finding or an error; `benchmarks/hostile_input.py` runs all."""

import pytest
from hostile_run import MOST_SECONDS, run
from hostile_texts import CASES

_QUICK = {
    "folder file: PNG bomb", "folder file: zero bytes", "folder file: JPEG cut at the end",
    "folder file: HTML named .jpg", "folder: a link out", "folder: links in a circle",
    "folder: a pipe", "folder: a folder linked out", "folder name: a newline",
    "folder name: bytes that are no text", "coco path: ..", "coco path: a .. inside",
    "csv path: ..", "voc path: ..", "yolo: a link out", "JSON bbox: NaN", "JSON bbox: text",
    "JSON: 100,000 brackets", "JSON: keys twice", "CSV: a NUL", "CSV: two encodings",
    "CSV: a formula", "XML: a billion laughs", "XML: an external entity",
    "YAML: a tag that runs a command", "YAML: a path up", "YAML: names from a bomb of aliases",
    "YOLO text: NaN",
}  # fmt: skip


def test_the_corpus_is_large_and_names_its_cases():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 100
    assert set(names) >= _QUICK


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in _QUICK], ids=lambda case: case.name
)
def test_hostile_data_is_told(case):
    assert run(case).faults == ()


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.slow], ids=lambda case: case.name)
def test_a_million_rows_end_in_time(case):
    # Tests beside it slow a process of much memory; the benchmark holds it to the 10 seconds.
    assert run(case, seconds=4 * MOST_SECONDS).faults == ()
