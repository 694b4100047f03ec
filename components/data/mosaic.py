"""Mosaic and mixup of detection images (YOLOX's recipe: Ge et al. 2021, arXiv:2107.08430).

Four images meet at a random point of a canvas twice the input's size; one affine warp (zoom, turn,
shear, shift) brings the input's window out of it; a further image may be blended in.

Shapes: H, W the model's input; G boxes of one scene. Coordinates are continuous pixels: the image
spans [0, W] by [0, H], and the first pixel's centre is at (0.5, 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from components.data.augment import MIN_SIDE, flipped_boxes
from components.data.geometry import FILL
from components.data.settings import AugmentSettings
from components.data.store import PreparedStore

# Share of a box's area that a cut must leave (YOLOv5's rule; YOLOX only drops sides up to 1 pixel,
# and so asks for objects of which a sliver is seen).
MIN_VISIBLE = 0.1
# Draws of an image to blend in that has a box. YOLOX draws until one has, for ever if none does.
PARTNER_DRAWS = 10


@dataclass(frozen=True)
class Scene:
    """An image with its boxes.

    Attributes:
        pixels: uint8 RGB [height, width, 3].
        boxes: xyxy, float32 [G, 4].
        labels: class ids, int64 [G].
    """

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


class Mosaic:
    """Draws mosaics from a store.

    Args:
        store: the images; each fits the input's size.
        settings: probabilities and ranges.
        partners: rows that the further images are drawn from, at least one.
    """

    def __init__(self, store: PreparedStore, settings: AugmentSettings, partners: np.ndarray):
        self.store = store
        self.settings = settings
        self.partners = partners

    def draw(self, row: int, rng: np.random.Generator) -> Scene | None:
        """A scene of the input's size with the image of `row` in it.

        Args:
            row: of the first image.
            rng: all choices come from it.

        Returns:
            None when the draw says that the image stays by itself.
        """
        settings, size = self.settings, self.store.info.image_size
        if rng.random() >= settings.mosaic:
            return None
        rows = [row, *rng.choice(self.partners, 3)]
        center = tuple(round(float(rng.uniform(0.5, 1.5)) * side) for side in size)
        joined = join_four([self._scene(row) for row in rows], (center[0], center[1]), size)
        scene = warp(joined, draw_affine(settings, size, rng), size)
        if rng.random() < settings.mixup:
            partner = self._partner(rng)
            if partner is not None:
                scene = blend(scene, draw_placed(partner, settings, size, rng))
        return scene

    def _scene(self, row: int) -> Scene:
        return Scene(self.store.image(row), *self.store.boxes(row))

    def _partner(self, rng: np.random.Generator) -> Scene | None:
        """An image with a box, if a few draws find one."""
        for row in rng.choice(self.partners, PARTNER_DRAWS):
            if len(self.store.boxes(row)[0]):
                return self._scene(row)
        return None


def join_four(
    scenes: Sequence[Scene], center: tuple[int, int], image_size: tuple[int, int]
) -> Scene:
    """Four images around a point of a canvas of [2H, 2W], grey where there is none.

    Args:
        scenes: top left, top right, bottom left, bottom right; each at most [H, W].
        center: (y, x) where a corner of each lies.
        image_size: (H, W).
    """
    height, width = 2 * image_size[0], 2 * image_size[1]
    canvas = np.full((height, width, 3), FILL, dtype=np.uint8)
    boxes, labels = [], []
    for place, scene in enumerate(scenes):
        tile_h, tile_w = scene.pixels.shape[:2]
        top = center[0] - (tile_h if place < 2 else 0)
        left = center[1] - (tile_w if place % 2 == 0 else 0)
        y1, x1 = max(top, 0), max(left, 0)
        y2, x2 = min(top + tile_h, height), min(left + tile_w, width)
        canvas[y1:y2, x1:x2] = scene.pixels[y1 - top : y2 - top, x1 - left : x2 - left]
        whole = scene.boxes + np.array([left, top, left, top], dtype=np.float32)
        seen, kept = visible(whole, (height, width))
        boxes.append(seen)
        labels.append(scene.labels[kept])
    return Scene(canvas, np.concatenate(boxes), np.concatenate(labels))


def warp(scene: Scene, matrix: np.ndarray, image_size: tuple[int, int]) -> Scene:
    """A scene moved by an affine map, seen through a window of [H, W]; boxes as their corners go.

    Args:
        scene: of any size.
        matrix: [2, 3], takes a point (x, y, 1) of the scene to the window.
        image_size: (H, W).

    Returns:
        The window, bilinear, grey outside the scene; boxes that frame the moved corners, cut to the
        window, without those `visible` drops.
    """
    height, width = image_size
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    pixels = Image.fromarray(scene.pixels).transform(
        (width, height),
        Image.Transform.AFFINE,
        tuple(inverse.ravel()),
        Image.Resampling.BILINEAR,
        fillcolor=(FILL, FILL, FILL),
    )
    corners = scene.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    whole = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
    boxes, kept = visible(whole.astype(np.float32), image_size)
    # A copy: what Pillow lends cannot be written to, and torch warns of it in each worker.
    return Scene(np.array(pixels), boxes, scene.labels[kept])


def visible(boxes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes cut to an image, without those of which too little is left.

    Args:
        boxes: xyxy [G, 4]; may reach outside.
        size: (height, width) of the image.

    Returns:
        The kept boxes, with sides of at least `MIN_SIDE` pixels and at least `MIN_VISIBLE` of their
        area, and which they are, bool [G].
    """
    height, width = size
    cut = boxes.clip(0, np.array([width, height, width, height], dtype=boxes.dtype))
    sides, whole = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    kept = (sides >= MIN_SIDE).all(axis=1) & (sides.prod(1) >= MIN_VISIBLE * whole.prod(1))
    return cut[kept], kept


def affine_matrix(
    degrees: float, zoom: float, shear: tuple[float, float], shift: tuple[float, float]
) -> np.ndarray:
    """A turn and zoom about the top left corner, then a shear, then a shift; [2, 3].

    Args:
        degrees: counter-clockwise as the image is seen.
        zoom: factor.
        shear: along x and along y, degrees.
        shift: (x, y), pixels.
    """
    angle = math.radians(degrees)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    along_x, along_y = (math.tan(math.radians(part)) for part in shear)
    linear = np.array([[1, along_x], [along_y, 1]]) @ np.array([[cos, sin], [-sin, cos]])
    return np.column_stack([linear, shift])


def draw_affine(
    settings: AugmentSettings, image_size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """A random map from the mosaic's canvas to the input's window, [2, 3].

    About the canvas' top left corner, as in YOLOX: without a zoom the window shows that quarter, so
    that large objects are often seen whole; and grey lies right and below, as in a letterbox.
    """
    height, width = image_size

    def within(limit: float) -> float:
        return float(rng.uniform(-limit, limit))

    return affine_matrix(
        within(settings.degrees),
        float(rng.uniform(*settings.mosaic_scale)),
        (within(settings.shear), within(settings.shear)),
        (within(settings.translate) * width, within(settings.translate) * height),
    )


def draw_placed(
    scene: Scene, settings: AugmentSettings, image_size: tuple[int, int], rng: np.random.Generator
) -> Scene:
    """A scene to be blended in: perhaps mirrored, zoomed, seen anywhere if zoomed up; [H, W]."""
    zoom = float(rng.uniform(*settings.mixup_scale))
    if rng.random() < settings.flip:
        scene = mirrored(scene)
    top, left = (float(rng.uniform(0, max(0.0, zoom - 1) * side)) for side in image_size)
    return place(scene, zoom, (top, left), image_size)


def mirrored(scene: Scene) -> Scene:
    """Left and right changed about."""
    boxes = flipped_boxes(scene.boxes, scene.pixels.shape[:2], True, False)
    return Scene(np.ascontiguousarray(scene.pixels[:, ::-1]), boxes, scene.labels)


def place(
    scene: Scene, zoom: float, corner: tuple[float, float], image_size: tuple[int, int]
) -> Scene:
    """A zoomed scene seen through a window of [H, W].

    What `warp` does without a turn, in less than half of its time.

    Args:
        scene: fits `image_size`.
        zoom: factor.
        corner: (top, left) of the window in the zoomed scene, pixels; not negative.
        image_size: (H, W).
    """
    canvas = np.full((*image_size, 3), FILL, dtype=np.uint8)
    ends = [
        min(window, math.floor(zoom * side - start))
        for window, side, start in zip(image_size, scene.pixels.shape, corner, strict=False)
    ]
    if min(ends) > 0:
        (height, width), (top, left) = ends, corner
        source = (left / zoom, top / zoom, (left + width) / zoom, (top + height) / zoom)
        seen = Image.fromarray(scene.pixels).resize(
            (width, height), Image.Resampling.BILINEAR, box=source
        )
        canvas[:height, :width] = np.asarray(seen)
    offset = np.array([corner[1], corner[0]] * 2, dtype=np.float32)
    boxes, kept = visible(scene.boxes * np.float32(zoom) - offset, image_size)
    return Scene(canvas, boxes, scene.labels[kept])


def blend(first: Scene, second: Scene) -> Scene:
    """The even mean of two images of one size, with the boxes of both."""
    # The sum of two bytes needs nine bits.
    mean = (first.pixels.astype(np.uint16) + second.pixels) // 2
    return Scene(
        mean.astype(np.uint8),
        np.concatenate([first.boxes, second.boxes]),
        np.concatenate([first.labels, second.labels]),
    )
