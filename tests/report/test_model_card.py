"""The model card: from the same facts as the page, and Markdown whatever the names are."""

import re
from dataclasses import replace

import pytest
from report_workspace import CLASSES, write_workspace

from components.contract.data_license import stated_licenses
from components.report.facts import Facts
from components.report.model_card import escaped, render_model_card
from tasks.report import gather

HOSTILE = [
    "<script>alert(1)</script>",
    "a|b",
    "[x](http://evil)",
    "two\nlines",
    "`code` *b* _i_ $x$",
]


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """Of both tasks, each with sound and with hostile names of classes."""
    found = {}
    for task in ("detection", "classification"):
        for names in (None, HOSTILE):
            root = tmp_path_factory.mktemp("workspace")
            found[task, bool(names)] = gather(*write_workspace(root, task, names, num_mistakes=0))
    return found


def card(facts: Facts, **changes) -> str:
    """The card once entries of the facts are changed."""
    return render_model_card(
        replace(facts, **{name: {**getattr(facts, name), **new} for name, new in changes.items()})
    )


def tables(text: str) -> list[list[list[str]]]:
    """Cells of all tables."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", row)[1:-1] for row in block.splitlines()] for block in found]


@pytest.mark.parametrize("task", ["detection", "classification"])
@pytest.mark.parametrize("hostile", [False, True])
def test_every_table_is_whole(facts, task, hostile):
    text = card(facts[task, hostile])
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Intended use", "## Data", "## Figures", "## Limits", "## Provenance",
    ]  # fmt: skip
    blocks = tables(text)
    assert len(blocks) == 5
    for block in blocks:
        assert len({len(row) for row in block}) == 1, block
        assert set("".join(block[1])) <= set("-:")
    names = HOSTILE if hostile else CLASSES[task]
    assert [row[0].strip() for row in blocks[1][2:]] == [*map(escaped, names), "**images**"]
    assert sorted(row[0].strip() for row in blocks[3][2:]) == sorted(map(escaped, names))
    assert "<" not in text and not re.search(r"(?<!\\)\]\(", text)


def test_figures_are_the_evaluations_own(facts):
    found = facts["detection", False]
    text = card(found)
    low, high = found.evaluation["intervals"]["map"]
    value = found.evaluation["headline"]["map"]
    assert f"| AP | {value:.3f} ({low:.3f} to {high:.3f}) |" in text
    assert "| **images** | 290 | 40 | 72 |" in text
    assert "of the test split" in text
    assert "is brought to 320 \N{MULTIPLICATION SIGN} 240 pixels" in text


def test_many_classes_are_cut_to_the_frequent_and_the_weak(facts):
    found = facts["classification", False]
    names = [f"class {number}" for number in range(50)]
    text = card(
        replace(found, per_class_and_split={n: {"train": i} for i, n in enumerate(names)}),
        evaluation={
            "per_class": [{"class": n, "num_images": 30, "f1": i / 50} for i, n in enumerate(names)]
        },
    )
    data, weak = tables(text)[1], tables(text)[3]
    assert [row[0].strip() for row in data[2:-1]] == names[20:]
    assert [row[0].strip() for row in weak[2:]] == names[:30]
    assert text.count("20 more") == 2


def test_licences_are_quoted_or_said_to_be_missing(facts):
    found = facts["detection", False]
    text = card(found).replace("\\", "")
    assert "| Licence of the data | not stated in the data folder |" in text
    missing = (
        "| Licence of the weights | not stated (export.license in params.yaml); training began"
    )
    assert missing in text
    text = card(found, validation={"license": {"LICENSE": "MIT License; Copyright X"}})
    assert "| Licence of the data | LICENSE: “MIT License; Copyright X” |" in text
    stated = [*found.parameters, ("export.license", "Apache-2.0"), ("train.pretrained", False)]
    text = card(replace(found, parameters=stated))
    assert "| Licence of the weights | Apache-2.0; trained from random weights |" in text


@pytest.mark.parametrize(
    ("evaluation", "limit"),
    [
        (
            {"split": "val"},
            "of the val split, by which the best epoch and the threshold of each class were",
        ),
        (
            {"per_class": [{"class": "R_C", "num_objects": 3, "ap": 0.5}]},
            "Measured on fewer than 20 objects each, and so hardly known: R\\_C.",
        ),
        (
            {"headline": {"map": 0.5, "map_small": 0.1, "map_large": 0.6}},
            "Small objects are found worse than large ones: AP 0.100 against 0.600.",
        ),
        ({"intervals": {"map": [0.4, 0.7]}}, "differences below 0.15 cannot"),
        ({"headline": {"map": 0.5, "ece": 0.2}}, "20.0 percentage points off"),
    ],
)
def test_limits_are_named(facts, evaluation, limit):
    found = facts["detection", False]
    assert limit not in card(found)
    assert limit in card(found, evaluation=evaluation)


def test_where_the_splits_are_from(facts):
    found = facts["detection", False]
    given = card(found, prepared={"split_source": "given"})
    drawn = card(found, prepared={"split_source": "hash"})
    assert "The splits are the data's own." in given and "a hash of each image's" not in given
    assert "a hash of each image's" in drawn


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"LICENSE": "MIT License\n\nCopyright X\n\nPermission"}, "MIT License; Copyright X"),
        ({"licence.TXT": "\ufeff  CC0   1.0  \n"}, "CC0 1.0"),
        ({"COPYING": "x" * 5000}, "x" * 120),
        ({"README": "MIT", "my-license": "MIT", "LICENSE": " \n"}, None),
        ({"LICENSE": b"\xff\xfe\x00"}, "\ufffd\ufffd\x00"),
    ],
)  # fmt: skip
def test_what_a_folder_says_of_its_licence(tmp_path, files, said):
    (tmp_path / "licenses").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert list(stated_licenses(tmp_path).values()) == ([said] if said else [])
    assert stated_licenses(tmp_path / "none") == {}
