"""Accepting data: what it says, what it refuses, that a kept file is never half written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.contract.accepted_splits import AcceptedSplits
from components.contract.reading import RawImage, RawObject, Reading
from components.contract.tables import Dataset, build
from components.data.store import PreparedStore
from components.errors import DataError
from components.files import read_json, write_json
from components.validation.pixel_pass import ImageFacts
from components.validation.profile import profile
from tasks import accept as command
from tasks.accept import accept
from tasks.layout import Layout
from tasks.params import Params
from tasks.preprocess import preprocess
from tasks.validate import validate


def parameters(**preprocess: object) -> Params:
    return Params.model_validate(
        {
            "base": {"task": "classification", "data": "raw"},
            "preprocess": preprocess,
            "train": {"augment": {"scale": [0.5, 1.0]}},
        }
    )


def write_profile(layout: Layout, classes: tuple[str, ...], each: int = 3, errors: int = 0) -> None:
    reading = Reading(Path("raw"), "folder", "classification", classes)
    for name in classes * each:
        reading.objects.append(RawObject(len(reading.images), name, None, None, False, ""))
        reading.images.append(RawImage(f"{len(reading.images)}.jpg", None, None, ""))
    facts = [ImageFacts(image.path, None, 8, 8) for image in reading.images]
    about = {"path": "", "width": 8, "height": 8, "phash": "0" * 16}
    images = [
        about | {"path": image.path, "sha256": f"{index:016x}".ljust(64, "0")}
        for index, image in enumerate(reading.images)
    ]
    objects = [{"image_id": item.image, "label": item.label} for item in reading.objects]
    dataset = Dataset(*build(images, objects, reading.task), classes, reading.task, "folder")
    dataset.save(layout.tables)
    more = {"num_errors": errors, "fingerprint": dataset.fingerprint}
    write_json(layout.profile, profile(reading, facts) | more)


def test_accepting_again_and_again(tmp_path):
    layout = Layout(tmp_path)
    write_profile(layout, ("cat", "dog"))
    first = accept(parameters(), layout)
    assert first[0] == "the first data accepted"
    assert first[1].startswith("splits kept from now on: ") and "6 images are new" in first[1]
    before = layout.accepted.read_bytes()
    assert "num_errors" not in read_json(layout.accepted)
    assert accept(parameters(), layout) == []
    assert layout.accepted.read_bytes() == before
    write_profile(layout, ("cat", "dog", "emu"))
    lines = accept(parameters(), layout)
    assert lines[0] == "num_images: 6 -> 9"
    assert any("emu: a new class" in line for line in lines)
    assert read_json(layout.accepted)["classes"] == ["cat", "dog", "emu"]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda layout: None, "run `python -m tasks.validate` first"),
        (lambda layout: write_profile(layout, ("cat",), errors=2), "the data has 2 errors"),
        (lambda layout: write_json(layout.profile, {"version": 1}), "not a profile"),
    ],
)
def test_what_is_refused(tmp_path, prepare, message):
    layout = Layout(tmp_path)
    prepare(layout)
    with pytest.raises(DataError, match=message):
        accept(parameters(), layout)
    assert not layout.accepted.exists()


def test_data_that_cannot_be_read_is_not_accepted_for_what_it_was(tmp_path):
    layout = Layout(tmp_path)
    write_profile(layout, ("cat", "dog"))
    with pytest.raises(DataError, match="there is no such folder"):
        validate(parameters(), layout)
    with pytest.raises(DataError, match=r"run `python -m tasks\.validate` first"):
        accept(parameters(), layout)


def test_a_broken_accepted_file_is_replaced(tmp_path):
    layout = Layout(tmp_path)
    write_profile(layout, ("cat", "dog"))
    layout.accepted.parent.mkdir()
    layout.accepted.write_text("{")
    assert accept(parameters(), layout)[0] == "the first data accepted"


def test_other_tables_than_those_validated(tmp_path):
    layout = Layout(tmp_path)
    write_profile(layout, ("cat", "dog"))
    profile = layout.profile.read_bytes()
    write_profile(layout, ("cat", "emu"))
    layout.profile.write_bytes(profile)
    with pytest.raises(DataError, match=r"tables: not the tables that .*profile.json tells of"):
        accept(parameters(), layout)
    shutil.rmtree(layout.tables)
    with pytest.raises(DataError, match="not the tables"):
        accept(parameters(), layout)
    assert not layout.accepted.exists() and not layout.accepted_splits.exists()


BROKEN = {
    "a foreign header": ("sha,split\n", "line 1: must be 'image,split'"),
    "a short name": ("image,split\nabc,train\n", "line 2: is 'abc,train'; allowed: 16 hex"),
    "no split": (f"image,split\n{'0' * 16},dev\n", "line 2"),
    "twice": (f"image,split\n{'0' * 16},val\n{'0' * 16},test\n", "is in two splits"),
    "no text": ("image,split\n\udcff\n", "cannot be read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_splits_are_named(tmp_path, case):
    text, message = BROKEN[case]
    path = tmp_path / "splits.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        AcceptedSplits.load(path)


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(grid).resize((64, 48), Image.Resampling.BICUBIC).save(path)


def splits(layout: Layout) -> dict[str, str]:
    index = PreparedStore.open(layout.prepared).index
    return dict(zip(index["path"], index["split"], strict=True))


def test_accepted_images_stay_and_links_between_them_are_told(tmp_path):
    """As a user does it: a small class is lent to, accepted, grows, and is then grouped."""
    layout = Layout(tmp_path)
    for number in range(36):
        name = "dog" if number < 4 else "cat"
        draw(tmp_path / "raw" / name / f"{number}_a.png", number)
    plain, params = parameters(stratify=False), parameters()
    validate(params, layout)
    preprocess(plain, layout)
    by_hash = splits(layout)
    preprocess(params, layout)
    first = splits(layout)
    assert first != by_hash  # or there would be nothing to keep
    accept(params, layout)
    for number in range(40):
        draw(tmp_path / "raw" / "dog" / f"more{number}_a.png", 2000 + number)
    validate(params, layout)
    preprocess(params, layout)
    after = splits(layout)
    assert {path: after[path] for path in first} == first
    preprocess(plain, layout)
    assert {path: splits(layout)[path] for path in first} == first
    # All are of one group now: nothing accepted moves, and it is said.
    grouped = parameters().model_dump(by_alias=True)
    grouped["validate"]["group_pattern"] = "_(a)"
    grouped = Params.model_validate(grouped)
    validate(grouped, layout)
    preprocess(grouped, layout)
    after = splits(layout)
    assert {path: after[path] for path in first} == first
    assert {split for path, split in after.items() if path not in first} == {"train"}
    found = [
        item
        for item in read_json(layout.validation)["findings"]
        if item["check"] == "linked-across-splits"
    ]
    assert [item["value"] for item in found] == ["train and test"]


def test_given_splits_end_the_acceptance_and_say_which_images_move(tmp_path):
    layout, params = Layout(tmp_path), parameters()
    for number in range(20):
        draw(tmp_path / "raw" / "ab"[number % 2] / f"{number}.png", number)
    validate(params, layout)
    accept(params, layout)
    held = AcceptedSplits.load(layout.accepted_splits)
    for number in range(20):
        split = "val" if number < 4 else "train"
        target = tmp_path / "raw" / split / "ab"[number % 2] / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(tmp_path / "raw" / "ab"[number % 2] / f"{number}.png", target)
    for name in "ab":
        (tmp_path / "raw" / name).rmdir()
    validate(params, layout)
    images = Dataset.load(layout.tables).images
    moved = {
        path
        for path, content, split in zip(
            images["path"], images["sha256"], images["split"], strict=True
        )
        if held.get(content) != split
    }
    findings = read_json(layout.validation)["findings"]
    assert moved
    assert {f["where"] for f in findings if f["check"] == "split-changed"} == moved
    assert accept(params, layout)[-1].startswith("the data brings its splits")
    assert len(AcceptedSplits.load(layout.accepted_splits)) == 0


def test_splits_are_accepted_with_drift(tmp_path):
    layout, params = Layout(tmp_path), parameters()
    for number in range(20):
        draw(tmp_path / "raw" / "ab"[number % 2] / f"{number}.png", number)
    validate(params, layout)
    accept(params, layout)
    for number in range(6):
        draw(tmp_path / "raw" / "c" / f"{number}.png", 50 + number)
    with pytest.raises(DataError, match="new class"):
        validate(params, layout)
    accept(params, layout)
    assert len(AcceptedSplits.load(layout.accepted_splits)) == 26


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        "base: {task: classification, data: raw}\ntrain: {augment: {scale: [0.5, 1.0]}}\n"
    )
    assert command.main([]) == 1
    assert capsys.readouterr().err.startswith("error: accept: reports/profile.json: no such file")
    write_profile(Layout(), ("cat",), each=9)
    assert command.main([]) == 0
    assert capsys.readouterr().out.endswith("accepted/: written; commit it\n")
    assert command.main([]) == 0
    assert capsys.readouterr().out == "accepted/: holds this data already\n"
