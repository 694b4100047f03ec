"""What the page says of the version before this one, and of the gate's verdict."""

from __future__ import annotations

import atexit
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest
from gate_figures import figures as gate_figures
from report_workspace import write_workspace
from test_report_page import outline, section

from components.files import read_json, sha256, write_json
from components.gate.rules import verdict
from components.gate.settings import GateSettings
from components.report import page as page_module
from tasks.layout import Layout
from tasks.params import Params
from tasks.report import report

PARAMS = """
base: {task: detection, data: ../data, seed: 1}
train: {augment: {scale: [0.5, 1.0]}, lr: 0.5}
report: {title: "Blood cells, nightly"}
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Without the charts, which take most of a page's time."""
    monkeypatch.setattr(page_module, "training_charts", lambda *_: [])
    monkeypatch.setattr(page_module, "precision_recall_chart", lambda *_: None)


def commit(root: Path) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-qb", "main"], ["add", "-f", "."], ["commit", "-qm", "Before"]):
        subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True)


def commit_of(root: Path) -> str:
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=root, text=True).strip()


@cache
def pattern() -> tuple[Params, Path]:
    """A workspace that is made once, to be copied."""
    root = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root)
    return write_workspace(root, "detection", num_mistakes=0)[0], root


def workspace(root: Path) -> tuple[Params, Layout]:
    """What the stages leave."""
    run, made = pattern()
    shutil.copytree(made, root, dirs_exist_ok=True)
    return run, Layout(root)


def committed(root: Path, before: dict[str, float], params: str = PARAMS, **profile):
    """A workspace whose last commit has other figures and parameters."""
    run, layout = workspace(root)
    path = layout.metrics("evaluate")
    figures, now = read_json(path), read_json(layout.profile)
    write_json(path, figures | before)
    write_json(layout.profile, now | profile)
    (root / "params.yaml").write_text(params)
    commit(root)
    write_json(path, figures)
    write_json(layout.profile, now)
    return run, layout


def page(run, layout: Layout) -> str:
    report(run, layout)
    text = layout.page.read_text(encoding="utf-8")
    outline(text)
    return text


def plain(text: str) -> str:
    return " ".join(re.sub("<[^>]+>", " ", text).split())


@pytest.mark.parametrize(
    ("before", "words", "change"),
    [
        (0.3, "Better than the version before", "+0.239"),
        (0.9, "Worse than the version before", "\N{MINUS SIGN}0.361"),
        (0.54, "Not told apart from the version before", "\N{MINUS SIGN}0.001"),
    ],
)
def test_figures_are_compared_with_the_last_commit_that_has_others(tmp_path, before, words, change):
    text = page(*committed(tmp_path, {"map": before}))
    told = plain(section(text, "verdict"))
    assert words in told and f"It was {before:.3f} in" in told and f"({change})" in told
    assert "compare only by and large" not in told
    assert f"was {before:.3f} ({change})" in plain(section(text, "figures"))
    assert "The data has not changed since" in section(text, "data")


def test_in_a_retraining_it_is_the_champion(tmp_path, monkeypatch):
    run, layout = committed(tmp_path, {"map": 0.3})
    champion = commit_of(tmp_path)
    figures = read_json(layout.metrics("evaluate"))
    write_json(layout.metrics("evaluate"), figures | {"map": 0.4})
    commit(tmp_path)  # a version since, which was rolled back
    write_json(layout.metrics("evaluate"), figures)
    monkeypatch.setenv("SOME_TOKEN", "canary-of-a-batch")
    told = {
        "champion": "v1.2.0",
        "commit": champion,
        "merged": ["may"],
        "refused": {"june": "12 images are broken, canary-of-a-batch"},
    }
    write_json(layout.retraining, told)
    text = page(run, layout)
    assert "It was 0.300 in v1.2.0 of 20" in section(text, "verdict")
    assert "in v1.2.0 of" in section(text, "figures") and "the champion" in section(text, "figures")
    data = plain(section(text, "data"))
    assert "may: merged" in data and "june: refused: 12 images are broken, ***" in data
    assert "Since v1.2.0 of" in section(text, "provenance")
    write_json(layout.retraining, told | {"champion": "", "commit": ""})
    assert "There is no earlier version" in section(page(run, layout), "verdict")


def test_data_and_parameters_are_compared(tmp_path):
    now = {"RBC": 5, "Gone": 7}
    params = PARAMS.replace("seed: 1", "seed: 3")
    run, layout = committed(tmp_path, {"map": 0.3}, params, fingerprint="ef", labels=now)
    text = page(run, layout)
    data = plain(section(text, "data"))
    assert "+0 images, +0 labelled objects; new classes: WBC, Platelets" in data
    assert "classes that are gone: Gone." in data and "+899" in data
    assert "compare only by and large" in section(text, "verdict")
    changed = section(text, "provenance").split("<h3>Parameters</h3>")[0]
    assert re.findall(r'scope="row">([^<]+)<.*?>([^<]+)</td><td[^>]+>([^<]+)<', changed) == [
        ("train.lr", "0.5", f"{run.train.lr:g}")
    ]


def test_parameters_of_another_version_of_timmflow_are_compared_as_far_as_they_stand(tmp_path):
    params = "base: {task: detection, data: ../data, seed: 2}\nlong_gone: {depth: 7}\n"
    text = plain(section(page(*committed(tmp_path, {"map": 0.3}, params)), "provenance"))
    assert "base.seed 2 3" in text and "long_gone.depth 7 not there" in text
    assert (
        "train.lr" not in text.split("Parameters that have changed")[1].split("Parameters Key")[0]
    )


@pytest.mark.parametrize("broken", ["{", "[]", '{"map": null}'])
def test_broken_figures_of_old_commits_do_no_harm(tmp_path, broken):
    run, layout = workspace(tmp_path)
    path = layout.metrics("evaluate")
    good = path.read_text()
    path.write_text(broken)
    commit(tmp_path)
    path.write_text(good)
    told = plain(section(page(run, layout), "verdict"))
    assert "has no such figure" in told if "map" in broken else "First version" in told


def test_without_a_profile_nothing_is_said_about_the_data(tmp_path):
    run, layout = workspace(tmp_path)
    path = layout.metrics("evaluate")
    figures, profile = read_json(path), layout.profile.read_text()
    write_json(path, figures | {"map": 0.3})
    layout.profile.unlink()
    commit(tmp_path)
    write_json(path, figures)
    layout.profile.write_text(profile)
    text = plain(page(run, layout))
    assert "on the same images is not known" in text and "The data has" not in text


def test_figures_that_are_measured_besides_make_no_version(tmp_path):
    run, layout = workspace(tmp_path)
    path = layout.metrics("evaluate")
    figures = read_json(path)
    write_json(path, {name: figures[name] for name in ("split", "map")})
    commit(tmp_path)
    write_json(path, figures)
    assert "First version" in section(page(run, layout), "verdict")


def test_the_same_figures_again_are_no_version_before(tmp_path):
    run, layout = workspace(tmp_path)
    commit(tmp_path)
    assert "First version" in section(page(run, layout), "verdict")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "The gate promotes it"),
        ({"all__low": -0.01}, "The gate refuses it"),
        ({"champion": None}, "There was no champion to compare with"),
    ],
)
def test_the_gate_goes_first(tmp_path, changes, words):
    run, layout = committed(tmp_path, {"map": 0.3})
    figures = gate_figures(**changes)
    if "champion" in changes:
        figures["all"] |= {"gain": None, "champion": None, "low": None, "high": None}
    figures |= {"metric": "map", "split": "test"}
    figures["challenger"]["sha256"] = sha256(layout.onnx)
    write_json(layout.verdict, verdict(figures, GateSettings()))
    told = plain(section(page(run, layout), "verdict"))
    assert words in told and "has not judged" not in told
    assert ("Failed: gain of map, low end" in told) == ("all__low" in changes)
    assert "validation warnings" in told


def test_a_verdict_on_another_model_is_not_shown(tmp_path):
    run, layout = workspace(tmp_path)
    figures = gate_figures() | {"metric": "map", "split": "test"}
    figures["challenger"]["sha256"] = "0" * 64
    write_json(layout.verdict, verdict(figures, GateSettings()))
    assert "has not judged this model" in section(page(run, layout), "verdict")


@pytest.mark.parametrize("asked", [True, False])
def test_a_page_of_the_validation_images_says_what_was_chosen_by_them(tmp_path, asked):
    run, layout = workspace(tmp_path)
    path = layout.evaluation / "details.json"
    write_json(path, read_json(path) | {"split": "val"})
    if not asked:
        import pandas as pd

        index = pd.read_parquet(layout.prepared / "index.parquet")
        index.replace({"split": {"test": "val"}}).to_parquet(layout.prepared / "index.parquet")
    text = plain(page(run, layout))
    chosen = "the best epoch and the threshold of each class were chosen"
    assert f"by which {chosen}" in text and f"{chosen} on these same images" in text
    assert ("There is no test split" in text) != asked
    assert ("The test split was not asked for" in text) == asked
    assert "the best F1 on the validation images measured here, which flatters it" in text
