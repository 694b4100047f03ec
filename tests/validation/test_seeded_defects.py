"""Each seeded defect is found, in one of its formats; `benchmarks/seeded_defects.py` tries all."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.defect_table import DEFECTS, NOT_INJECTED
from benchmarks.defects import ALL
from benchmarks.seeded_defects import Outcome, complaints, good, run, table, write_between
from components.contract.catalogue import CHECKS

FOUND = Outcome(True, ("box-empty",), (), False, 0.1)
BOX_EMPTY = next(n for n, defect in enumerate(DEFECTS) if defect.check == "box-empty")


def test_every_check_has_a_defect_or_a_reason_why_not():
    injected = {defect.check for defect in DEFECTS}
    assert injected | NOT_INJECTED.keys() == CHECKS.keys()
    assert not injected & NOT_INJECTED.keys()


def test_the_table_is_in_order():
    assert len({(d.check, d.name, d.formats) for d in DEFECTS}) == len(DEFECTS)
    for defect in DEFECTS:
        assert bool(defect.change) + bool(defect.damage) <= 1
        assert defect.change or defect.damage or defect.classes
        assert set(defect.formats) <= set(ALL)
        assert {defect.check, *defect.follows} <= CHECKS.keys()
        assert defect.check not in defect.follows


@pytest.mark.parametrize("family", dict.fromkeys(check.family for check in CHECKS.values()))
def test_each_defect_is_found_and_nothing_else_is_said(family):
    todo = [
        (number, defect.formats[number % len(defect.formats)], 0)
        for number, defect in enumerate(DEFECTS)
        if CHECKS[defect.check].family == family
    ]
    assert todo
    assert complaints(run(todo)) == []


@pytest.mark.parametrize("format", ALL)
def test_a_clean_set_does_not_alarm(format):
    outcomes = run([(None, format, 1)])
    assert complaints(outcomes) == []
    assert good(outcomes)


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (FOUND, None),
        (Outcome(False, ("odd-mode",), ("odd-mode",), False, 0.1), "missed"),
        (Outcome(False, (), (), False, 0.1), "said nothing"),
        (Outcome(True, ("box-empty", "box-units"), ("box-units",), False, 0.1), "besides"),
        (Outcome(True, ("box-empty",), (), True, 0.1), "changed"),
    ],
)
def test_what_is_not_as_it_should_be_is_told(outcome, told):
    outcomes = {(BOX_EMPTY, "coco", 0): outcome}
    assert good(outcomes) == (told is None)
    lines = complaints(outcomes)
    assert len(lines) == (told is not None)
    assert all(told in line and "box-empty" in line and "coco" in line for line in lines)


def test_formats_that_differ_in_their_verdict_are_told():
    other = Outcome(True, ("box-empty", "tiny-box"), (), False, 0.1)
    outcomes = {(BOX_EMPTY, "coco", 0): FOUND, (BOX_EMPTY, "voc", 0): other}
    (line,) = complaints(outcomes)
    assert line.startswith("verdicts differ: box-empty")
    assert "same findings in all formats | 0 of 1 |" in table(outcomes)


def test_the_table_goes_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n")
    write_between(page, "one")
    write_between(page, table({(BOX_EMPTY, "coco", 0): FOUND}))
    text = page.read_text()
    assert text.startswith("# Title\n")
    assert "one" not in text
    assert "| `box-empty` | error |  |  |  |  | 1/1 |  |  |" in text
    assert "| errors found | 1 of 1 (100.00 %) |" in text
