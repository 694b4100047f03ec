"""Changes of training images that are made only where settings ask: see each function's source.

Images are uint8 RGB [H, W, 3]; every choice comes from the generator that is given.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from components.data.geometry import FILL
from components.data.mosaic import Scene
from components.data.store import PreparedStore

ERASED_AREA = (0.02, 1 / 3)  # share of the image
ERASED_RATIO = (0.3, 1 / 0.3)  # height by width
MOST_PASTED = 5  # objects an image
LARGEST_SIDE = 0.5  # of a pasted object, as a share of the image's
MOST_HIDDEN = 0.3  # share of an object's area that a pasted one may hide
PLACES = 10  # tried for each object


def trivially_augmented(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """One change of colour or shape of random strength (Müller and Hutter 2021, arXiv:2103.10158).

    torchvision's `TrivialAugmentWide`; what it uncovers is grey.
    """
    image = tv_tensors.Image(pixels.permute(2, 0, 1))
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator
        torch.default_generator.manual_seed(int(rng.integers(2**62)))
        changed = v2.TrivialAugmentWide(fill=FILL)(image)
    return changed.as_subclass(Tensor).permute(1, 2, 0).contiguous()


def erased(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """A rectangle painted grey (random erasing: Zhong et al. 2017, arXiv:1708.04896)."""
    height, width = pixels.shape[:2]
    area = height * width * rng.uniform(*ERASED_AREA)
    ratio = math.exp(rng.uniform(math.log(ERASED_RATIO[0]), math.log(ERASED_RATIO[1])))
    h = min(height, max(1, round(math.sqrt(area * ratio))))
    w = min(width, max(1, round(math.sqrt(area / ratio))))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    changed = pixels.clone()  # which may be a part of the store
    changed[top : top + h, left : left + w] = FILL
    return changed


class CopyPaste:
    """Pastes objects of other training images into an image, cut out along their boxes.

    After Dwibedi et al. 2017, arXiv:1708.01642, but without masks: an object brings what surrounds
    it inside its box.

    Args:
        store: the images.
        probability: that anything is pasted.
        partners: rows that objects come from.
    """

    def __init__(self, store: PreparedStore, probability: float, partners: np.ndarray):
        self.store = store
        self.probability = probability
        self.partners = partners

    def draw(self, scene: Scene, rng: np.random.Generator) -> Scene:
        """The scene, with objects of one other image or as it is."""
        if rng.random() >= self.probability:
            return scene
        row = int(rng.choice(self.partners))
        return pasted(scene, Scene(self.store.image(row), *self.store.boxes(row)), rng)


def pasted(scene: Scene, donor: Scene, rng: np.random.Generator) -> Scene:
    """A scene with some of a donor's objects at random places.

    Up to five objects, each at most half as high and wide as the scene, go where they hide nothing
    by more than 30 %; one that finds no such place in ten draws is left out.
    """
    height, width = scene.pixels.shape[:2]
    pixels, boxes, labels = scene.pixels.copy(), list(scene.boxes), list(scene.labels)
    for number in rng.permutation(len(donor.boxes))[:MOST_PASTED]:
        x1, y1 = np.floor(donor.boxes[number][:2]).astype(int)
        x2, y2 = np.ceil(donor.boxes[number][2:]).astype(int)
        part = donor.pixels[max(0, y1) : y2, max(0, x1) : x2]
        h, w = part.shape[:2]
        if not (0 < h <= LARGEST_SIDE * height and 0 < w <= LARGEST_SIDE * width):
            continue
        for _ in range(PLACES):
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            place = np.array([left, top, left + w, top + h], dtype=np.float32)
            if not boxes or hidden_shares(np.stack(boxes), place).max() <= MOST_HIDDEN:
                pixels[top : top + h, left : left + w] = part
                # Where the object itself lies, which is a little less than its whole pixels.
                shift = np.array([left - max(0, x1), top - max(0, y1)] * 2, dtype=np.float32)
                boxes.append(donor.boxes[number] + shift)
                labels.append(donor.labels[number])
                break
    if len(boxes) == len(scene.boxes):
        return scene
    return Scene(pixels, np.stack(boxes).astype(np.float32), np.array(labels, dtype=np.int64))


def hidden_shares(boxes: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Share of the area of each box [G, 4] that a box [4] covers; xyxy."""
    overlap = np.minimum(boxes[:, 2:], place[2:]) - np.maximum(boxes[:, :2], place[:2])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return overlap.clip(0).prod(axis=1) / np.maximum(area, 1e-6)
