"""Pictures: sizes, colours, and text that stays inside."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from components.evaluation.pictures import (
    KIND_COLOURS,
    Box,
    NamedLabel,
    draw_boxes,
    draw_caption,
    draw_labels,
    fit_text,
    load_font,
    save_jpeg,
)


def grey(height: int, width: int):
    return np.full((height, width, 3), 90, np.uint8)


def colours(picture) -> set[str]:
    return {f"#{bytes(row).hex()}" for row in np.unique(picture.reshape(-1, 3), axis=0)}


@pytest.mark.parametrize("size", [(28, 28), (240, 320), (900, 700), (7, 300), (300, 7), (1, 1)])
def test_any_size_of_image_and_box(size):
    image = grey(*size)
    before = image.copy()
    boxes = [
        Box((0, 0, size[1], size[0]), "whole", 0.9, class_id=11),
        Box((-5, -5, 3, 3), "outside", 0.5),
        Box((size[1] - 1, size[0] - 1, 50, 50), "name " * 60, 0.25),
        Box((2, 2, 0, 0), "<b>&", None, "true"),
    ]
    picture = draw_boxes(image, boxes)
    assert picture.dtype == np.uint8 and picture.ndim == 3
    assert max(picture.shape) >= 480
    assert (image == before).all()


def test_each_kind_shows_in_its_colour_and_the_legend_adds_a_strip():
    boxes = [
        Box((20 + 60 * i, 40, 40, 60), "cell", 0.8, kind) for i, kind in enumerate(KIND_COLOURS)
    ]
    picture = draw_boxes(grey(240, 320), boxes, min_side=640)
    assert set(KIND_COLOURS.values()) <= colours(picture)
    assert picture.shape[1] == 640 and picture.shape[0] > 480
    plain = draw_boxes(grey(240, 320), [Box((9, 9, 50, 50), "cell", 0.8)], min_side=640)
    assert plain.shape == (480, 640, 3)
    assert draw_boxes(grey(600, 600), []).shape == (600, 600, 3)


def test_the_label_of_a_box_at_the_edge_stays_inside():
    shown = draw_boxes(grey(500, 500), [Box((480, 0, 20, 20), "platelets", 0.87)])
    label = (shown == np.array([0x56, 0xB4, 0xE9])).all(2)
    # Wider than the box itself, whole up to the right edge.
    assert np.ptp(np.flatnonzero(label.any(0))) > 60


def test_captions_colour_right_and_wrong():
    wrong = draw_caption(grey(64, 64), ("shirt", 0.93), ("T-shirt", 0.04))
    right = draw_caption(grey(64, 64), ("shirt", 0.93), ("shirt", 0.93))
    assert KIND_COLOURS["false"] in colours(wrong)
    assert KIND_COLOURS["false"] not in colours(right)
    assert wrong.shape[0] > draw_caption(grey(64, 64), ("shirt", 0.93)).shape[0] > 320


def test_labels_stand_a_line_each_in_the_colour_of_their_kind():
    labels = [NamedLabel("cat", 0.8, "false"), NamedLabel("dog", 0.1, "missed")]
    two = draw_labels(grey(64, 64), labels)
    assert {KIND_COLOURS["false"], KIND_COLOURS["missed"]} <= colours(two)
    assert KIND_COLOURS["correct"] in colours(draw_labels(grey(64, 64), [NamedLabel("a", 0.7)]))
    assert draw_labels(grey(64, 64), []).shape[0] > 320
    many = [NamedLabel(f"class {i}", 0.5) for i in range(40)]
    nine = [*many[:8], NamedLabel("and 32 more", 0.5)]
    assert draw_labels(grey(64, 64), many).shape == draw_labels(grey(64, 64), nine, most=9).shape


def test_long_text_is_shortened():
    font = load_font(16)
    text = fit_text("one very long\nname " * 20, font, 200)
    assert text.endswith("…") and "\n" not in text
    assert font.getlength(text) <= 200
    assert fit_text("short", font, 200) == "short"
    assert fit_text("short", font, 1) == "…"


def test_jpeg_is_scaled_down(tmp_path):
    save_jpeg(tmp_path / "a.jpg", grey(1000, 2000), max_side=500)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert (picture.size, picture.format) == ((500, 250), "JPEG")


def test_only_rgb_bytes_are_drawn():
    with pytest.raises(ValueError, match="uint8"):
        draw_boxes(np.zeros((4, 4)), [])
