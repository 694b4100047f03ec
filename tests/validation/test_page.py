"""The page: what it shows, what it never does, and how large it may get."""

from __future__ import annotations

import base64
import dataclasses
import importlib.util
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.contract.findings import Finding, finding, shown
from components.contract.reading import RawImage, RawObject, Reading
from components.validation.distributions import class_rows, paired
from components.validation.object_columns import ObjectColumns
from components.validation.page import render
from components.validation.page_examples import Examples
from components.validation.pixel_pass import ImageFacts
from components.validation.run import validate_reading
from components.validation.settings import ValidateSettings
from components.validation.thumbnails import SIDE, Thumbnails

RED = np.array((255, 64, 32))


def save(path: Path, size: tuple[int, int] = (80, 60), orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    rows = np.linspace(0, 120, size[1], dtype=np.uint8)
    rows[0] = len(path.name) + ord(path.name[0])  # no two of a test are copies
    pixels = np.broadcast_to(rows[:, None, None], (size[1], size[0], 3))
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)


def detection(root: Path, boxes, names=("0.png", "1.png", "2.png"), classes=("cat", "dog")):
    """A detection data set whose boxes (image, box) are all of the first class."""
    for name in names:
        save(root / name)
    reading = Reading(root, "coco", "detection", classes)
    reading.images = [
        RawImage(name, split, None, "row")
        for name, split in zip(names, ("train", "val", "test"), strict=False)
    ]
    reading.splits = {"train", "val", "test"}
    reading.objects = [
        RawObject(image, classes[0], box, None, False, f"annotations[{n}]")
        for n, (image, box) in enumerate(boxes)
    ]
    return reading


def page_of(reading: Reading, *more, **settings) -> str:
    """The page of a data set, with the findings `more` besides those that the checks make."""
    result = validate_reading(reading, ValidateSettings(**settings))
    findings = sorted([*result.findings, *more])
    changes = {"findings": findings}
    if hasattr(result, "num_warnings"):
        changes["num_warnings"] = result.num_warnings + len(more)
    return render(dataclasses.replace(result, **changes), "data")


def opened(address: str | None) -> np.ndarray:
    assert address is not None
    head, _, text = address.partition(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).astype(int)


def marked(pixels: np.ndarray) -> tuple[int, int, int, int] | None:
    """Where the marking colour is: left, top, right, bottom; None if nowhere."""
    rows, columns = np.nonzero((np.abs(pixels - RED) < 70).all(axis=2))
    if not len(rows):
        return None
    return columns.min(), rows.min(), columns.max(), rows.max()


@pytest.mark.parametrize(
    ("box", "size", "expected", "reason"),
    [
        ((20.0, 15.0, 40.0, 30.0), (240, 180), (60, 45, 180, 135), "inside: three times as large"),
        (
            (60.0, 15.0, 40.0, 30.0),
            (240, 144),
            (144, 36, 240, 108),
            "sticks out: a border shows it",
        ),
        ((90.0, 10.0, 10.0, 10.0), (240, 144), (216, 24, 240, 48), "outside: a border shows it"),
        ((40.0, 30.0, 0.0, 0.0), (240, 180), (110, 80, 130, 100), "empty: a ring about the place"),
        ((1e308, 5.0, 1e308, 9.0), (240, 129), (221, 0, 239, 41), "far away: a mark at the edge"),
        ((float("nan"), 5.0, 5.0, 9.0), (240, 180), None, "no place: not drawn"),
        (
            (79.5, 20.0, 0.9, 20.0),
            (240, 180),
            (199, 50, 239, 130),
            "out by half a pixel: no border",
        ),
    ],
)
def test_the_marked_box_is_where_it_belongs(tmp_path, box, size, expected, reason):
    save(tmp_path / "a.png")
    pixels = opened(Thumbnails(tmp_path, 10**6, 10**6).draw("a.png", [], [box]))
    assert pixels.shape[1::-1] == size, reason
    found = marked(pixels)
    if expected is None:
        assert found is None, reason
    else:
        assert found is not None, reason
        # A ring is larger than its box; elsewhere lines may lie two pixels off.
        assert np.abs(np.subtract(found, expected)).max() <= (12 if box[2] < 5 else 4), reason


def test_a_thumbnail_is_upright(tmp_path):
    save(tmp_path / "a.jpg", (80, 40), orientation=6)
    assert opened(Thumbnails(tmp_path, 10**6, 10**6).draw("a.jpg")).shape == (SIDE, SIDE // 2, 3)


def test_what_has_no_thumbnail(tmp_path):
    root = tmp_path / "data"
    save(root / "sound.png")
    save(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "svg.jpg").write_text("<svg/>")
    (root / "empty.jpg").write_bytes(b"")
    (root / "cut.png").write_bytes((root / "sound.png").read_bytes()[:-40])
    thumbnails = Thumbnails(root, 10**6, 10**6)
    assert thumbnails.draw("sound.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "svg.jpg", "empty.jpg",
                 "cut.png", "missing.png", "a\0.png", "\ud800.png", ""):  # fmt: skip
        assert thumbnails.draw(name) is None, name
    assert Thumbnails(root, 10**6, 80 * 60 - 1).draw("sound.png") is None
    few = Thumbnails(root, 1, 10**6)
    assert few.draw("sound.png") and few.draw("sound.png") is None


def test_the_offending_box_is_marked_and_its_neighbours_are_not(tmp_path):
    box, other = (50.0, 10.0, 60.0, 40.0), (5.0, 5.0, 20.0, 20.0)
    page = page_of(detection(tmp_path, [(0, box), (0, other), (1, other), (2, other)]))
    part = page.partition('id="warning-box-partly-outside"')[2]
    source = re.search(r'src="([^"]+)"', part)
    assert source
    found = marked(opened(source[1]))
    assert found is not None and found[0] > 80


def test_the_worst_come_first_and_an_image_once():
    reading = Reading(Path("data"), "coco", "detection", ("cat",))
    reading.images = [RawImage(f"{n}.jpg", None, None, "row") for n in range(50)]
    sizes = {n: 2.9 - n / 20 for n in range(50)}
    rows = [
        finding("tiny-box", f"row {n}", "small", (0.0, 0.0, 9.0, size), image=f"{n}.jpg")
        for n, size in sizes.items()
    ]
    rows.append(finding("tiny-box", "row 99", "small", (0.0, 0.0, 2.0, 2.0), image="49.jpg"))
    chosen = Examples(reading, rows, ObjectColumns(reading)).choose("tiny-box", rows, 6)
    assert [images[0].image for images in chosen] == [f"{n}.jpg" for n in (49, 48, 47, 46, 45, 44)]
    assert len(chosen[0]) == 2
    rows = [finding("exif-orientation", f"{n}.jpg", "turned", 6) for n in range(50)]
    chosen = Examples(reading, rows, ObjectColumns(reading)).choose("exif-orientation", rows, 5)
    assert [images[0].where for images in chosen] == [f"{n}.jpg" for n in (0, 10, 20, 30, 40)]


def test_images_that_are_alike_stand_side_by_side(tmp_path):
    page = page_of(
        detection(tmp_path, [], ("my first.png", "other.png", "third.png")),
        finding("near-duplicate", "other.png", "looks like my first.png", image="other.png"),
    )
    part = page.partition('id="warning-near-duplicate"')[2].partition("</details>")[0]
    assert part.count("<img") == 2
    assert part.index("<bdi>other.png") < part.index("<bdi>my first.png")


EVIL = "<script>alert(1)</script>\"'><img src=http://evil.example onerror=x>\u202e"


def test_all_text_is_escaped_and_nothing_is_fetched(tmp_path):
    reading = detection(tmp_path, [(0, (1.0, 1.0, 9.0, 2.0))], classes=(EVIL, "\ud800 lone"))
    reading.images.append(RawImage(EVIL, "test", None, "row"))
    result = validate_reading(reading, ValidateSettings())
    findings = [finding("tiny-box", EVIL, EVIL, EVIL, EVIL, EVIL),
                finding("drift-labels", EVIL, EVIL, EVIL, EVIL)]  # fmt: skip
    changed = dataclasses.replace(result, findings=sorted([*result.findings, *findings]))
    object.__setattr__(changed, "quarantine", [{"path": shown(EVIL), "checks": ["file-empty"]}])
    profile = {EVIL: {EVIL: 3, "b": 1}}
    page = render(changed, EVIL, profile, profile)
    page.encode("utf-8")
    text = re.sub(r'src="data:image/jpeg;base64,[A-Za-z0-9+/=]+"', "", page)
    assert "<script" not in text and "<img src" not in text
    assert not re.search(r"<(link|iframe|object|embed|base)\b|url\(|@import", text)
    assert not re.search(r'<[^>]*\b(src|href|srcset)=("(?!#)|[^"])', text)
    assert text.count("&lt;script&gt;") >= 10
    assert "\u202e" not in text  # it would turn the rest of a line round


@pytest.mark.parametrize(
    ("faulty", "quarantine", "words"),
    [
        (False, [], "No errors: this data can be used."),
        (True, [], "1 error: this data is not used until it is mended."),
        (False, [{"path": "9.jpg", "checks": ["file-empty"]}], "Without the images left out, this"),
    ],
)
def test_the_verdict(tmp_path, faulty, quarantine, words):
    sides = (9.0, 0.0) if faulty else (9.0, 9.0)
    boxes = [(image, (1.0, 1.0, *(sides if image == 1 else (9.0, 9.0)))) for image in range(3)]
    result = validate_reading(detection(tmp_path, boxes, classes=("cat",)), ValidateSettings())
    object.__setattr__(result, "quarantine", quarantine)
    page = render(result, "data")
    assert words in page
    assert ("<h2>Left out</h2>" in page) == bool(quarantine) == ("9.jpg" in page)


def test_a_hundred_thousand_findings_make_a_light_page(tmp_path):
    reading = detection(tmp_path, [])
    long = "x" * 250  # Finding itself: `finding` looks at every letter
    rows = [
        Finding("warning", check, f"annotations[{n}] {long}", long, long, long, f"{n % 3}.png")
        for check in ("tiny-box", "long-box", "exif-orientation", "near-duplicate", "large-box")
        for n in range(20_000)
    ]
    page = page_of(reading, *rows)
    assert len(page) < 4_000_000
    assert page.count("20,000") >= 10
    assert 5 * 50 < page.count("annotations[") <= 5 * 200
    few = [finding("tiny-box", f"annotations[{n}]", "small", image="0.png") for n in range(500)]
    page = page_of(reading, *few)
    assert page.count('<td class="where"><bdi>annotations[') == 200
    assert "and 300 more, all in validation.json" in page


def test_what_is_not_listed_is_counted(tmp_path):
    rest = finding("tiny-box", "the rest", "and 12,000 more like the 1 listed", image="0.png")
    page = page_of(detection(tmp_path, []), finding("tiny-box", "row 7", "small"), rest)
    assert '<td class="number">12,001</td>' in page and "row 7" in page
    assert "more like the" not in page


def test_pictures_stay_within_their_share_and_each_check_has_some(tmp_path):
    noise = np.random.default_rng(0)
    names = [f"{n}.png" for n in range(80)]
    reading = detection(tmp_path, [], names[:3])
    for name in names:
        pixels = noise.integers(0, 255, (240, 240, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    reading.images = [RawImage(name, "train", None, "row") for name in names]
    checks = ("tiny-box", "long-box", "large-box", "box-partly-outside", "exif-orientation",
              "odd-mode", "near-duplicate", "blurred-image", "low-information", "odd-size",
              "small-image", "long-image", "many-boxes", "duplicate-box")  # fmt: skip
    rows = [finding(check, name, "odd", image=name) for check in checks for name in names]
    page = page_of(reading, *rows)
    assert len(page) < 4_000_000
    for check in checks:
        part = page.partition(f'id="warning-{check}"')[2].partition("<table")[0]
        assert "<img" in part, check


def test_of_many_classes_the_most_frequent_and_the_rarest_are_shown():
    reading = Reading(Path("data"), "folder", "classification", tuple(f"c{n}" for n in range(200)))
    reading.images = [RawImage(f"{n}.jpg", "val" if n % 2 else "train", None, "") for n in range(2)]
    reading.objects = [
        RawObject(n % 2, f"c{n}", None, None, False, "") for n in range(200) for _ in range(n)
    ]
    splits, rows, left_out = class_rows(reading, {}, ObjectColumns(reading))
    assert splits == ["train", "val"]
    assert [row.id for row in rows] == [*range(20), *range(160, 200)] and left_out == 140
    assert 'aria-label="train 0.0%, val 2.0%"' in rows[-1].bars


PAIRED = {
    "labels": ({"labels": {"a": 3, "b": 1}}, {"labels": {"a": 1, "c": 1}},
               [("labels", [("a", 0.75, 0.5), ("b", 0.25, 0), ("c", 0, 0.5)])]),
    "bins with edges, empty ends dropped": (
        {"histograms": {"size": [0, 1, 3, 0]}}, {"histograms": {"size": [0, 0, 5, 0]}},
        [("histograms, size", [("1 to 2", 0.25, 0), ("2 to 4", 0.75, 1)])]),
    "bins without": ({"box_place": [1, 1]}, {"box_place": [1, 3]},
                     [("box place", [("1", 0.5, 0.25), ("2", 0.5, 0.75)])]),
    "neither counts nor bins": (
        {"version": 1, "classes": ["a", "b"], "quantiles": {"size": {"5 %": 0.5}}, "flag": True},
        {"version": 2, "classes": [], "quantiles": {"size": {"5 %": 0.7}}, "flag": False}, []),
    "appeared": ({}, {"labels": {"a": 2}}, [("labels", [("a", 0, 1)])]),
    "all zero": ({"size": [0, 0]}, {"size": [0, 0]}, [("size", [])]),
}  # fmt: skip


@pytest.mark.parametrize("case", PAIRED)
def test_profiles_become_pairs_of_shares(case):
    reference, current, expected = PAIRED[case]
    found = [
        (title, [(pair.name, pair.reference, pair.current) for pair in pairs])
        for title, pairs, _ in paired(reference, current, {"size": (1.0, 2.0, 4.0)})
    ]
    assert found == expected


def test_the_page_compares_with_the_reference(tmp_path):
    result = validate_reading(detection(tmp_path, []), ValidateSettings())
    assert "Compared with" not in render(result, "data")
    assert "Compared with" not in render(result, "data", {"labels": {"a": 1}})
    page = render(result, "data", {"labels": {"a": 1, "b": 3}}, {"labels": {"a": 1}})
    assert "No drift was found." in page and "100.0 %" in page and "75.0 %" in page
    drifted = dataclasses.replace(
        result, findings=sorted([*result.findings, finding("drift-labels", "labels", "changed")])
    )
    page = render(drifted, "data")
    assert "No drift was found." not in page
    assert page.index("Compared with") < page.index('id="warning-drift-labels"')


def test_data_without_anything(tmp_path):
    reading = Reading(tmp_path, "coco", "detection")
    page = page_of(reading, finding("no-classes", "a.json", "there are no classes"))
    assert "There are no classes." in page and "no-classes" in page


def test_boxes_of_any_number_make_charts(tmp_path):
    strange = [(n % 3, (0.0, 0.0, a, b)) for n, (a, b) in enumerate(
        [(1e308, 1e308), (float("nan"), 1.0), (-5.0, 5.0), (0.0, 0.0), (1e-300, 1e-300), (9.0, 9.0)]
    )]  # fmt: skip
    page = page_of(detection(tmp_path, strange))
    assert page.count("<figcaption>") == 5
    broken = [ImageFacts(f"{n}.png", ("file-empty", "empty", "", "")) for n in range(3)]
    reading = detection(tmp_path, [])
    result = validate_reading(reading, ValidateSettings())
    assert render(dataclasses.replace(result, facts=broken), "data").count("<figcaption>") == 1


def test_the_documentation_lists_every_check():
    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location("checks_page", root / "benchmarks/checks_page.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (root / "docs/validation.md").read_text()
    assert module.written(text) == text, "run python benchmarks/checks_page.py"
    with pytest.raises(ValueError, match="markers of 'checks'"):
        module.written("")
