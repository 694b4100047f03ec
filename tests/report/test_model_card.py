"""The model card: from the same facts as the page, and Markdown whatever the names are."""

import re

import pytest
from report_workspace import CLASSES, write_workspace

from components.contract.data_license import stated_licenses
from components.files import read_json, write_json
from components.report.model_card import escaped
from tasks.report import report

HOSTILE = [
    "<script>alert(1)</script>",
    "a|b",
    "[x](http://evil)",
    "two\nlines",
    "`code` *b* _i_ $x$",
]


def card(tmp_path, task="detection", classes=None, **changes) -> str:
    params, layout = write_workspace(tmp_path, task, classes)
    for path, change in {
        layout.validation: changes.get("validation"),
        layout.evaluation / "details.json": changes.get("evaluation"),
        layout.prepared / "dataset.json": changes.get("prepared"),
    }.items():
        write_json(path, read_json(path) | (change or {}))
    report(params.model_copy(update=changes.get("params", {})), layout)
    return layout.model_card.read_text()


def tables(text: str) -> list[list[list[str]]]:
    """Cells of all tables."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", row)[1:-1] for row in block.splitlines()] for block in found]


@pytest.mark.parametrize("task", ["detection", "classification"])
@pytest.mark.parametrize("hostile", [False, True])
def test_every_table_is_whole(tmp_path, task, hostile):
    text = card(tmp_path, task, HOSTILE if hostile else None)
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


def test_figures_are_the_pages_own(tmp_path):
    text = card(tmp_path)
    headline = read_json(tmp_path / "reports" / "evaluation" / "details.json")["headline"]
    low, high = read_json(tmp_path / "reports" / "evaluation" / "details.json")["intervals"]["map"]
    assert f"| AP | {headline['map']:.3f} ({low:.3f} to {high:.3f}) |" in text
    assert "| **images** | 290 | 40 | 72 |" in text
    assert (
        "of the test split" in text and "brought to 320 \N{MULTIPLICATION SIGN} 240 pixels" in text
    )


def test_licences_are_quoted_or_said_to_be_missing(tmp_path):
    text = card(tmp_path / "without")
    assert "| Licence of the data | not stated in the data folder |" in text
    assert (
        "| Licence of the weights | not stated (export.license in params.yaml); training began"
        in (text.replace("\\", ""))
    )
    text = card(tmp_path / "with", validation={"license": {"LICENSE": "MIT License; Copyright X"}})
    assert "| Licence of the data | LICENSE: “MIT License; Copyright X” |" in text


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"evaluation": {"split": "val"}}, "of the val split, by which the best epoch was chosen"),
        (
            {"evaluation": {"per_class": [{"class": "R_C", "num_objects": 3, "ap": 0.5}]}},
            "Measured on fewer than 20 objects each, and so hardly known: R\\_C.",
        ),
        (
            {"evaluation": {"headline": {"map": 0.5, "map_small": 0.1, "map_large": 0.6}}},
            "Small objects are found worse than large ones: AP 0.100 against 0.600.",
        ),
        ({"evaluation": {"intervals": {"map": [0.4, 0.7]}}}, "differences below 0.15 cannot"),
        ({"evaluation": {"headline": {"map": 0.5, "ece": 0.2}}}, "20.0 percentage points off"),
    ],
)
def test_limits_are_named(tmp_path, changes, limit):
    assert limit not in card(tmp_path / "usual")
    assert limit in card(tmp_path / "changed", **changes)


def test_where_the_splits_are_from(tmp_path):
    given = card(tmp_path / "given", prepared={"split_source": "given"})
    drawn = card(tmp_path / "drawn", prepared={"split_source": "hash"})
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
