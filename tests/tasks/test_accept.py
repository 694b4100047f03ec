"""Accepting data: what it says, what it refuses, that a kept file is never half written."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.contract.reading import RawImage, RawObject, Reading
from components.errors import DataError
from components.files import read_json, write_json
from components.validation.pixel_pass import ImageFacts
from components.validation.profile import profile
from tasks import accept as command
from tasks.accept import accept
from tasks.layout import Layout


def write_profile(layout: Layout, classes: tuple[str, ...], each: int = 3, errors: int = 0) -> None:
    reading = Reading(Path("raw"), "folder", "classification", classes)
    for name in classes * each:
        reading.objects.append(RawObject(len(reading.images), name, None, None, False, ""))
        reading.images.append(RawImage(f"{len(reading.images)}.jpg", None, None, ""))
    facts = [ImageFacts(image.path, None, 8, 8) for image in reading.images]
    write_json(layout.profile, profile(reading, facts) | {"num_errors": errors})


def test_accepting_again_and_again(tmp_path):
    layout = Layout(tmp_path)
    write_profile(layout, ("cat", "dog"))
    assert accept(layout) == ["the first data accepted"]
    before = layout.accepted.read_bytes()
    assert "num_errors" not in read_json(layout.accepted)
    assert accept(layout) == []
    assert layout.accepted.read_bytes() == before
    write_profile(layout, ("cat", "dog", "emu"))
    lines = accept(layout)
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
        accept(layout)
    assert not layout.accepted.exists()


def test_a_broken_accepted_file_is_replaced(tmp_path):
    layout = Layout(tmp_path)
    write_profile(layout, ("cat", "dog"))
    layout.accepted.parent.mkdir()
    layout.accepted.write_text("{")
    assert accept(layout) == ["the first data accepted"]


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main([]) == 1
    assert capsys.readouterr().err.startswith("error: accept: reports/profile.json: no such file")
    write_profile(Layout(), ("cat",))
    assert command.main([]) == 0
    assert capsys.readouterr().out.endswith("accepted/profile.json: written; commit it\n")
    assert command.main([]) == 0
    assert capsys.readouterr().out == "accepted/profile.json: holds this data already\n"
