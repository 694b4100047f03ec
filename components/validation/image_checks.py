"""Checks of single images: the file, its pixels, its name."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from posixpath import splitext

from components.contract.findings import Finding, finding
from components.contract.pixels import EXTENSIONS
from components.contract.reading import RawImage, Reading
from components.validation.pixel_pass import FLAT, ImageFacts

_SMALL_IMAGE = 16  # pixels of the shorter side
_LONG_IMAGE = 8.0  # longer side over shorter
_DARK, _LIGHT = 8.0, 247.0  # mean luminance, 0 to 255


def check_files(facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    """Files that cannot be used, or are not what they seem."""
    for fact in facts:
        if fact.fault:
            check, message, value, allowed = fact.fault
            yield finding(check, fact.path, message, value, allowed, image=fact.path)
            continue
        expected = EXTENSIONS.get(splitext(fact.path)[1].lower())
        if expected != fact.format:
            yield finding(
                "content-differs-from-extension",
                fact.path,
                "the content is not what the extension says",
                fact.format,
                expected or ", ".join(EXTENSIONS),
                image=fact.path,
            )
        if fact.num_frames > 1:
            # Many cameras put a second picture into a JPEG; everybody shows the first.
            yield finding(
                "several-frames",
                fact.path,
                "more than one frame; only the first is used",
                fact.num_frames,
                "1",
                image=fact.path,
            )


def check_images(reading: Reading, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    """Sizes, modes and looks."""
    usable = [fact for fact in facts if not fact.fault]
    common = Counter(fact.mode for fact in usable).most_common(1)
    usual = common[0][0] if common else "RGB"
    for image, fact in zip(reading.images, facts, strict=True):
        if not fact.fault:
            yield from _check_size(image, fact)
            yield from _check_looks(fact, usual)


def _check_size(image: RawImage, fact: ImageFacts) -> Iterator[Finding]:
    size = (float(fact.width), float(fact.height))
    seen = f"{fact.width} x {fact.height}"
    if image.size is not None and image.size != size:
        turned = fact.orientation >= 5 and image.size == size[::-1]
        yield finding(
            "image-size",
            fact.path,
            "the annotations are for the image before its EXIF orientation is applied"
            if turned
            else f"the size differs from that in {image.where}",
            f"{image.size[0]:g} x {image.size[1]:g}",
            seen,
            image=fact.path,
        )
    if min(size) < _SMALL_IMAGE:
        allowed = f"sides of at least {_SMALL_IMAGE} px"
        yield finding("small-image", fact.path, "very small", seen, allowed, image=fact.path)
    if max(size) > _LONG_IMAGE * min(size):
        allowed = f"at most {_LONG_IMAGE:g} to 1"
        yield finding("long-image", fact.path, "very long and thin", seen, allowed, image=fact.path)


def _check_looks(fact: ImageFacts, usual: str) -> Iterator[Finding]:
    path = fact.path
    if fact.orientation > 1:
        message = "the image is stored turned; it is turned upright when it is read"
        yield finding("exif-orientation", path, message, fact.orientation, "1", image=path)
    if fact.mode != usual:
        message = f"stored as {fact.mode}, most are {usual}"
        yield finding("odd-mode", path, message, fact.mode, usual, image=path)
    if fact.contrast < FLAT:
        yield finding("flat-image", path, "almost one single colour", fact.contrast, image=path)
    elif fact.brightness < _DARK:
        yield finding("dark-image", path, "almost black", fact.brightness, image=path)
    elif fact.brightness > _LIGHT:
        yield finding("light-image", path, "almost white", fact.brightness, image=path)


def check_names(reading: Reading) -> Iterator[Finding]:
    """Names that become the same file on another file system."""
    seen: dict[str, str] = {}
    for image in reading.images:
        key = unicodedata.normalize("NFC", image.path).casefold()
        if key in seen:
            yield finding(
                "names-alike",
                image.path,
                "differs from another file only by case or Unicode form",
                seen[key],
                image=image.path,
            )
        seen.setdefault(key, image.path)
