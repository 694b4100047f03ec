"""The page: complete in itself, safe against hostile names, the same for the same facts."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from report_workspace import CLASSES, write_workspace

from components.errors import DataError
from components.evaluation.multi_label import evaluate_multi_label
from components.files import read_json, rounded, write_json
from components.report.page_pictures import shrink_pictures
from tasks import report as report_module
from tasks.report import report
from tasks.report_history import revision

TASKS = ("classification", "detection")
HOSTILE = ['<script>alert("x")</script>', "_a & $b$ '\"", "very" * 60, "шапка 帽子", "}}{{ 7*7 }}"]


class Outline(HTMLParser):
    """Collects what the tests look at, and checks that elements are closed in order."""

    def __init__(self):
        super().__init__()
        self.ids, self.levels, self.open, self.resources, self.images = [], [], [], [], []
        self.tags = set()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            if name in attrs:
                self.resources.append(attrs[name])
        if tag == "img":
            self.images.append(attrs)
        if tag not in ("meta", "link", "img", "br", "col"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    assert parser.open == []
    return parser


@pytest.fixture(scope="module", params=TASKS)
def made(request, tmp_path_factory):
    """(task, figures, text of the page) of a realistic run."""
    params, layout = write_workspace(tmp_path_factory.mktemp("ws"), request.param)
    figures = report(params, layout)
    return request.param, figures, layout.page.read_text(encoding="utf-8")


def test_figures(made):
    _, figures, text = made
    assert figures["page"] == "reports/index.html"
    assert figures["megabytes"] == pytest.approx(len(text.encode()) / 1e6, abs=0.01)
    assert figures["megabytes"] < 3


def test_nothing_is_loaded_from_outside(made):
    _, _, text = made
    rest = re.sub(r'\bxmlns(:\w+)?="[^"]*"', "", text)
    rest = re.sub(r'"data:[^"]*"', "", rest)
    assert not re.search(r"https?:|//[a-z]", rest)
    assert "@import" not in text
    found = outline(text)
    assert found.tags.isdisjoint({"script", "iframe", "object", "embed", "form"})
    assert all(item.startswith(("data:", "#")) for item in found.resources)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "default-src 'none'" in text


def section(text: str, name: str) -> str:
    return text.split(f'<section id="{name}"')[1].split("</section>")[0]


def test_slices_stand_worst_first_with_counts_and_intervals(made):
    _, _, text = made
    part = section(text, "slices")
    row = r'<td>(\d+)</td><td>([\d.]+)(?: %)?</td><td class="between">[\d.]+.*? to [\d.]+'
    figures = re.findall(row, part)
    values = [float(value) for _, value in figures]
    assert len(values) >= 8 and values == sorted(values)
    assert all(int(count) >= 10 for count, _ in figures)
    assert "north &lt;gate&gt;" in part and "<gate>" not in part


def test_errors_thresholds_temperature_and_suspects_are_told(made):
    task, _, text = made
    assert "labelled &lt;hat&gt;" in section(text, "suspects")
    if task == "classification":
        part = section(text, "calibration")
        assert "1.37" in part and "without" in part
        return
    part = section(text, "errors")
    gains = [float(gain) for gain in re.findall(r"<td>(-?[\d.]+)</td></tr>", part)]
    assert len(gains) == 6 and gains == sorted(gains, reverse=True)
    assert section(text, "classes").count("<td>0.400</td>") == len(CLASSES["detection"])


def test_structure(made):
    task, _, text = made
    found = outline(text)
    assert '<html lang="en">' in text
    assert len(found.ids) == len(set(found.ids))
    links = {item[1:] for item in found.resources if item.startswith("#")}
    assert links <= set(found.ids)
    sections = {
        "figures",
        "verdict",
        "advice",
        "data",
        "training",
        "classes",
        "slices",
        "mistakes",
        "suspects",
        "export",
        "provenance",
    }
    own = {
        "classification": {"confusion", "calibration"},
        "detection": {"confusion", "precision-recall", "errors"},
    }
    assert sections | own[task] == {name for name in found.ids if f'<section id="{name}"' in text}
    assert found.levels[0] == 1 and found.levels.count(1) == 1
    steps = zip(found.levels, found.levels[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)
    assert found.images and all(image["alt"] and image["width"] for image in found.images)
    assert "prefers-color-scheme: dark" in text and "@media print" in text


def test_contents(made):
    task, _, text = made
    for name in CLASSES[task]:
        assert f">{name}</th>" in text
    for words in (
        "95&nbsp;% interval",
        "near duplicate",
        "21.4 ms an image",
        "17 min 42 s",
        "base.seed",
        "3,412,554",
        "not a git repository",
        "cd" * 32,
        "test/BloodImage_00000.jpg",
        "onnxruntime",
    ):
        assert words in text, words


@pytest.mark.parametrize("task", TASKS)
def test_hostile_names_are_text(tmp_path, task):
    params, layout = write_workspace(tmp_path, task, HOSTILE, num_mistakes=2)
    report(params, layout)
    text = layout.page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert" in text
    assert "}}{{ 7*7 }}" in text and "_a &amp; $b$" in text and "帽子" in text
    outline(text)


@pytest.mark.parametrize("task", TASKS)
def test_same_facts_same_bytes(tmp_path, task, monkeypatch):
    monkeypatch.setattr(report_module, "_now", lambda: "2026-01-02 03:04 UTC")
    params, layout = write_workspace(tmp_path, task)
    report(params, layout)
    first = [path.read_bytes() for path in (layout.page, layout.model_card)]
    assert first[1].startswith(b"# ")
    report(params, layout)
    assert [path.read_bytes() for path in (layout.page, layout.model_card)] == first


def test_many_classes(tmp_path):
    classes = [f"class {i}" for i in range(40)]
    for task in TASKS:
        params, layout = write_workspace(tmp_path / task, task, classes, num_mistakes=0)
        report(params, layout)
        text = layout.page.read_text(encoding="utf-8")
        outline(text)
        assert "Worst mistakes" not in text
        wanted = {
            "classification": "Confusion matrix: share",
            "detection": "the 8 weakest of 40 classes",
        }
        assert wanted[task] in text


@pytest.mark.parametrize("classes", [HOSTILE, [f"class {i}" for i in range(40)]])
def test_several_labels_an_image(tmp_path, classes):
    params, layout = write_workspace(tmp_path, "classification", classes, num_mistakes=0)
    rng = np.random.default_rng(0)
    truth = rng.random((60, len(classes))) < 0.3
    truth[:, 1] = False  # a class on no image of the split
    probabilities = np.clip(rng.random(truth.shape) * 0.6 + 0.4 * truth, 0, 1)
    result = evaluate_multi_label(
        probabilities, truth, classes, [0.5] * len(classes), split="val", bootstrap=20
    )
    write_json(layout.evaluation / "details.json", rounded(result.details))
    report(params, layout)
    text = layout.page.read_text(encoding="utf-8")
    found = outline(text)
    assert {"precision-recall", "calibration"} <= set(found.ids) and "confusion" not in found.ids
    assert len(found.ids) == len(set(found.ids))
    assert "<script" not in text and "IoU" not in text
    for words in (
        "Mean AP",
        "Images of each class",
        "An image can stand in several rows",
        "Missed",
    ):
        assert words in text, words
    assert ("the 8 weakest of 39 classes" in text) == (len(classes) == 40)


def test_sections_without_facts_are_left_out(tmp_path):
    params, layout = write_workspace(tmp_path, "classification")
    path = layout.evaluation / "details.json"
    details = read_json(path)
    for name in ("confusion", "calibration"):
        del details[name]
    absent = {"intervals": {}, "mistakes": [], "suspects": [], "slices": []}
    write_json(path, {**details, **absent})
    validation = read_json(layout.validation)
    write_json(layout.validation, {**validation, "findings": [], "num_warnings": 0})
    (layout.plots / "train.csv").unlink()
    layout.onnx.unlink()
    report(params, layout)
    text = layout.page.read_text(encoding="utf-8")
    outline(text)
    for name in ("confusion", "calibration", "training", "mistakes", "suspects", "slices"):
        assert f'id="{name}"' not in text and f'href="#{name}"' not in text
    assert "None: the data passed every check." in text
    assert "95&nbsp;% interval" not in text


def test_an_evaluation_without_objects_says_so(tmp_path):
    params, layout = write_workspace(tmp_path, "detection")
    path = layout.evaluation / "details.json"
    rows = [{"class": name, "num_objects": 0} for name in CLASSES["detection"]]
    empty = {"headline": {}, "intervals": {}, "per_class": rows, "precision_recall": {}}
    empty |= {"errors": [], "slices": []}
    write_json(path, {**read_json(path), **empty, "mistakes": []})
    report(params, layout)
    assert "hold no object" in layout.page.read_text(encoding="utf-8")


def test_files_stand_in_a_table_and_a_rejected_one_with_its_reason(tmp_path):
    params, layout = write_workspace(tmp_path, "detection", num_mistakes=0)
    report(params, layout)
    text = layout.page.read_text(encoding="utf-8")
    table = text[text.index("Files compared") :]
    assert ">models/model.onnx</td><td>0.5510</td><td>13.6</td><td>21.4</td>" in table
    assert ">not published</td>" in table
    assert "<b>int8</b> was rejected: its speed is 1.10 of float32&#39;s" in table


@pytest.mark.parametrize(
    ("missing", "stage"),
    [
        ("reports/evaluation/details.json", "evaluate"),
        ("reports/evaluation/mistake-000.jpg", "evaluate"),
        ("reports/validation.json", "validate"),
        ("data/tables/dataset.json", "validate"),
        ("data/prepared/objects.parquet", "preprocess"),
        ("metrics/train.json", "train"),
        ("metrics/export.json", "export"),
        ("reports/export.json", "export"),
    ],
)
def test_a_missing_input_names_the_stage(tmp_path, missing, stage):
    params, layout = write_workspace(tmp_path, "detection", num_mistakes=1)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=f"{missing}: no such file; `dvc repro {stage}` writes it"):
        report(params, layout)
    assert not layout.page.exists()


def test_a_broken_table_is_named(tmp_path):
    params, layout = write_workspace(tmp_path, "detection", num_mistakes=0)
    (layout.prepared / "index.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"index\.parquet: cannot be read"):
        report(params, layout)


def test_results_of_the_other_task_are_refused(tmp_path):
    params, _ = write_workspace(tmp_path / "a", "classification", num_mistakes=0)
    _, layout = write_workspace(tmp_path / "b", "detection", num_mistakes=0)
    with pytest.raises(DataError, match="run `dvc repro`"):
        report(params, layout)


def test_revision_and_changes(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True
        )

    git("init", "-b", "main")
    (tmp_path / "metrics").mkdir()
    (tmp_path / "a b.py").write_text("1")
    (tmp_path / "metrics" / "train.json").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    clean = revision(tmp_path)
    assert (len(clean.commit), clean.branch, clean.changed) == (40, "main", ())
    (tmp_path / "a b.py").write_text("2")
    (tmp_path / "metrics" / "train.json").write_text("2")
    (tmp_path / "dvc.lock").write_text("new")
    (tmp_path / "ü.py").write_text("new")
    assert revision(tmp_path).changed == ("a b.py", "ü.py")


def test_pictures_keep_to_the_budget(tmp_path):
    _, layout = write_workspace(tmp_path, "detection", num_mistakes=3)
    pictures = [path.read_bytes() for path in sorted(layout.evaluation.glob("*.jpg"))]
    whole = shrink_pictures(pictures)
    assert [data for data, _, _ in whole] == pictures
    small = shrink_pictures(pictures, budget=60_000)
    assert sum(len(data) for data, _, _ in small) <= 60_000
    assert shrink_pictures([]) == []
