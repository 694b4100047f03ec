"""What a seeded defect is: a fault put into a clean data set, and the check that must find it.

The table is in `defect_table`. A fault is put either into the set before it is written in some
format (`defect_changes`), so that every format has it, or into the files of one format
(`defect_files`).
"""

from __future__ import annotations

import functools
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from components.contract.readers import KnownFormat
from components.contract.tables import Task

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "contract"))

from five_formats import CLASSES as CLASSES
from five_formats import RawSet as RawSet
from five_formats import Sample as Sample
from five_formats import Thing as Thing
from five_formats import encode as encode
from five_formats import image_path as image_path
from five_formats import make, write
from five_formats import picture as picture

Rng = np.random.Generator
Change = Callable[[RawSet, Sample, Rng], Any]
Damage = Callable[[Path, RawSet, Sample, str], Any]

# CSV counts thrice: a label an image, several labels an image, boxes.
ALL = ("folder", "csv", "csv-multi", "csv-boxes", "coco", "voc", "yolo")
BOXES = ("csv-boxes", "coco", "voc", "yolo")
LABELS = ("folder", "csv", "csv-multi")
TABLES = ("csv", "csv-multi", "csv-boxes")
# Formats that hold the same data, and must come to the same verdict on it.
ALIKE = (("folder", "csv"), BOXES)


@dataclass(frozen=True)
class Defect:
    """One kind of fault.

    Args:
        check: the check that must find it.
        name: what is done.
        formats: those that can express it, of `ALL`.
        change: puts it into the set, at the sample given.
        damage: puts it into the files.
        follows: other checks that the fault breaks too, of itself. All else that is said of the
            set is a false alarm.
        of_image: a finding of the check must name the sample's file.
        classes: class list to read with.
        settings: of the validation.
        counts: images by split of the clean set; None takes the usual.
        drift: the set is compared with another clean set, as if that had been accepted.
        accepted: the splits that the images had before the fault were accepted.
    """

    check: str
    name: str
    formats: tuple[str, ...]
    change: Change | None = None
    damage: Damage | None = None
    follows: tuple[str, ...] = ()
    of_image: bool = True
    classes: tuple[str, ...] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] | None = None
    drift: bool = False
    accepted: bool = False


def task_of(format: str) -> Task:
    """The task that a format of `ALL` is read for."""
    return "classification" if format in LABELS else "detection"


def clean_set(format: str, seed: int, counts: dict[str, int] | None = None) -> RawSet:
    """A clean set for a format of `ALL`; the same one, to be changed at will, each time.

    Args:
        format: formats of one task get the same set, but `csv-multi`, whose images have one or two
            labels.
        seed: the same one gives the same bytes.
        counts: images by split; None takes the usual.
    """
    key = None if counts is None else tuple(counts.items())
    raw: RawSet = pickle.loads(_made(task_of(format), seed, key))
    if format == "csv-multi":
        raw.multi_label = True
        for sample in raw.samples[1::4]:
            place = CLASSES.index(sample.things[0].label)
            sample.things.append(Thing(CLASSES[(place + 1) % len(CLASSES)]))
    return raw


@functools.lru_cache(maxsize=16)
def _made(task: Task, seed: int, counts: tuple[tuple[str, int], ...] | None) -> bytes:
    return pickle.dumps(make(task, seed, dict(counts) if counts else None))


def write_set(raw: RawSet, root: Path, format: str) -> Path:
    """Write a set in a format of `ALL`; the folder it is in."""
    return write(raw, root, form_of(format))


def form_of(format: str) -> KnownFormat:
    """The name that readers have for a format of `ALL`."""
    return cast(KnownFormat, format.partition("-")[0])
