"""The one rule by which an image file becomes pixels, in training, evaluation and prediction alike.

The result is always RGB, 8 bit, height x width x 3:

- EXIF orientation is applied. A PNG's EXIF counts only if it stands before the pixels.
- Grey and palette images are spread to three equal or looked-up channels.
- Transparency is laid over white.
- CMYK, YCbCr, LAB and HSV are converted as Pillow does. Colour profiles (ICC) are ignored.
- 16-bit grey is scaled to 8 bit (0..65535 to 0..255, rounded); of 16-bit colour Pillow keeps the
  high byte.
- Of an animated or multi-page file the first frame counts.

Only the formats in `FORMATS` are opened. This module needs Pillow and numpy and nothing else.
"""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from components.errors import DataError

# Pillow opens many more, some by starting other programs; these are what photographs come in.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
EXTENSIONS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
}

MAX_PIXELS = 64_000_000
MAX_BYTES = 64_000_000

_MAX_FRAMES = 1000  # counted; Pillow's own count of a TIFF's pages is quadratic
# Pillow walks some files block by block in Python. The largest sound GIF needs one read for each
# 128 bytes; a file made of far smaller blocks would keep it busy for minutes, or for ever.
_READS, _BYTES_PER_READ = 50_000, 128
_ROWS = 256  # of 16-bit pixels, scaled at a time

_ORIENTATION = 0x0112  # the EXIF tag
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(DataError):
    """An image file that cannot be used.

    Args:
        name: the file.
        check: the validation check it fails: `file-missing`, `file-empty`, `file-too-large`,
            `image-too-large`, `image-undecodable`.
        reason: what is wrong, in a sentence.
        value: the value seen.
        allowed: what would be accepted.
    """

    def __init__(self, name: str, check: str, reason: str, value: str = "", allowed: str = ""):
        super().__init__(f"{name}: {reason}")
        self.name, self.check, self.reason = name, check, reason
        self.value, self.allowed = value, allowed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.check, self.reason, self.value, self.allowed)


@dataclass(frozen=True)
class Decoded:
    """An image's pixels and what its file was like.

    Args:
        pixels: [height, width, 3] uint8, RGB, oriented.
        format: Pillow's name of the file format, one of `FORMATS`.
        mode: Pillow's mode of the stored pixels, such as `RGB`, `L`, `RGBA`, `CMYK`, `P`, `I;16`.
        orientation: EXIF orientation that was applied, 1 (none) to 8.
        num_frames: frames or pages in the file.
    """

    pixels: np.ndarray
    format: str
    mode: str
    orientation: int
    num_frames: int


def load_rgb(path: Path, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """Read an image file by the rule of this module.

    Args:
        path: the file.
        max_pixels: most pixels accepted; checked before anything is decoded.
        max_bytes: largest file accepted.

    Returns:
        [height, width, 3] uint8, RGB; contiguous and writable.

    Raises:
        ImageError: the file is missing, empty, too large, truncated or not an image.
    """
    return decode(read_bytes(path, max_bytes), str(path), max_pixels).pixels


def read_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels after EXIF orientation, without decoding the pixels.

    Raises:
        ImageError: the file is missing, empty or not an image.
    """
    name = str(path)
    _check_regular(path)
    with _opened(path, name) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The whole file, unless it is missing, empty, no regular file, or larger than `max_bytes`.

    Raises:
        ImageError: it is.
    """
    name = str(path)
    size = _check_regular(path)
    if size > max_bytes:
        raise ImageError(
            name,
            "file-too-large",
            f"the file has {size / 1e6:.1f} MB",
            f"{size / 1e6:.1f} MB",
            f"at most {max_bytes / 1e6:g} MB",
        )
    try:
        with Path(path).open("rb") as file:
            return file.read(max_bytes)
    except OSError as error:
        raise _unreadable(name, error) from None


def decode(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode an image file's bytes by the rule of this module.

    Args:
        data: the file's content.
        name: what error messages call it.
        max_pixels: most pixels accepted; checked before anything is decoded.

    Raises:
        ImageError: empty, too many pixels, truncated, or not an image.
    """
    with _loaded(data, name, max_pixels) as (image, facts):
        rgb = to_rgb(image, name)
        if facts.orientation > 1:
            rgb = rgb.transpose(_TRANSPOSE[facts.orientation])
        pixels = np.array(rgb)  # a copy: writable, and free of the Pillow image
    return Decoded(pixels, facts.format, facts.mode, facts.orientation, facts.num_frames)


@dataclass(frozen=True)
class Glance:
    """An image file's properties and a small grey copy of it.

    Args:
        grey: [height, width] uint8 luminance, oriented; no side is longer than asked for.
        width, height: pixels of the whole image, after EXIF orientation.
        format, mode, orientation, num_frames: see `Decoded`.
    """

    grey: np.ndarray
    width: int
    height: int
    format: str
    mode: str
    orientation: int
    num_frames: int


def glance(data: bytes, name: str, max_pixels: int, side: int) -> Glance:
    """Decode an image file's bytes to a small grey copy, by the rule of this module.

    The whole file is decoded, so that it fails where `decode` fails; but a JPEG directly to about
    the size that is needed, and nothing else is copied at full size if that can be avoided.

    Args:
        data, name, max_pixels: see `decode`.
        side: width and height of the copy; shorter sides stay as they are.

    Raises:
        ImageError: see `decode`.
    """
    with _loaded(data, name, max_pixels, side) as (image, facts):
        grey = _small_grey(image, name, side)
        turn = _TRANSPOSE.get(facts.orientation)
        pixels = np.asarray(grey if turn is None else grey.transpose(turn))
    width, height = facts.size if facts.orientation < 5 else facts.size[::-1]
    return Glance(
        pixels, width, height, facts.format, facts.mode, facts.orientation, facts.num_frames
    )


def _small_grey(image: Image.Image, name: str, side: int) -> Image.Image:
    """A decoded image in mode L, at most `side` wide and high, not turned."""
    if _is_transparent(image):
        image = image if image.mode == "RGBA" else image.convert("RGBA")
    elif image.mode.startswith("I"):
        image = _to_8_bit(image, name)
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = to_rgb(image, name)  # indices, bits and hues cannot be averaged
    width, height = image.size
    image = image.reduce((max(1, width // side), max(1, height // side)))
    grey = to_rgb(image, name).convert("L") if image.mode != "L" else image
    return grey.resize((min(width, side), min(height, side)), Image.Resampling.BOX)


class _Facts(NamedTuple):
    """What is known before the pixels are decoded; `size` is not oriented."""

    size: tuple[int, int]
    format: str
    mode: str
    orientation: int
    num_frames: int


@contextmanager
def _loaded(
    data: bytes, name: str, max_pixels: int, side: int | None = None
) -> Iterator[tuple[Image.Image, _Facts]]:
    """A Pillow image with its pixels, once the caps are checked.

    Args:
        data, name, max_pixels: see `decode`.
        side: of a JPEG, luminance at this size or up to twice of it is enough.
    """
    if not data:
        raise ImageError(name, "file-empty", "the file is empty", "0 bytes", "an image")
    with _opened(_CountedReads(data, name), name) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                name,
                "image-too-large",
                f"the image has {width} x {height} pixels",
                f"{width * height / 1e6:.1f} megapixels",
                f"at most {max_pixels / 1e6:g} megapixels",
            )
        # A JPEG with a second, smaller picture inside is opened as MPO; it is a JPEG to us.
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        facts = _Facts(image.size, kind, image.mode, _orientation(image), _num_frames(image))
        if side is not None and kind == "JPEG":
            image.draft("L", (side, side))
        image.load()
        yield image, facts


class _CountedReads(io.BytesIO):
    """Bytes as a file that refuses to be read in too many pieces."""

    def __init__(self, data: bytes, name: str):
        super().__init__(data)
        self._name, self._left = name, _READS + len(data) // _BYTES_PER_READ

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ImageError(
                self._name,
                "image-undecodable",
                "the file consists of far too many pieces",
                "",
                f"a whole {', '.join(FORMATS)} file",
            )
        return super().read(size)


def _num_frames(image: Image.Image) -> int:
    """Frames or pages, counted up to `_MAX_FRAMES` in a TIFF."""
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))
    num_frames = 1
    try:
        while num_frames < _MAX_FRAMES:
            image.seek(num_frames)
            num_frames += 1
    except EOFError:
        pass  # the way in which Pillow says that this was the last one
    if num_frames > 1:
        image.seek(0)
    return num_frames


@contextmanager
def _opened(source: Any, name: str) -> Iterator[Image.Image]:
    """A Pillow image with our own pixel cap instead of Pillow's, and one kind of error."""
    cap = Image.MAX_IMAGE_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata; the pixels are what counts
            Image.MAX_IMAGE_PIXELS = None
            with Image.open(source, formats=FORMATS) as image:
                yield image
    except ImageError:
        raise
    # Decoders meet hostile bytes with whatever exception comes first: OSError, SyntaxError,
    # struct.error, KeyError, MemoryError and more.
    except Exception as error:  # noqa: BLE001
        raise _unreadable(name, error) from None
    finally:
        Image.MAX_IMAGE_PIXELS = cap


def _unreadable(name: str, error: Exception) -> ImageError:
    if isinstance(error, Image.UnidentifiedImageError):
        reason = "not an image, or not of a format that is read"
    else:
        detail = str(error) or type(error).__name__
        reason = f"the image cannot be decoded: {detail}"
    return ImageError(name, "image-undecodable", reason, "", f"a whole {', '.join(FORMATS)} file")


def _check_regular(path: Path) -> int:
    """Bytes of a regular file; an `ImageError` for anything else, before it is opened."""
    name = str(path)
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        detail = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(
            name, "file-missing", f"the file cannot be found: {detail}", "", "an image file"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(name, "file-missing", "not a regular file", "", "an image file")
    if status.st_size == 0:
        raise ImageError(name, "file-empty", "the file is empty", "0 bytes", "an image")
    return status.st_size


def _orientation(image: Image.Image) -> int:
    """EXIF orientation still to be applied, 1 to 8. Needs no decoding."""
    if image.format == "TIFF":
        return 1  # Pillow turns TIFF pixels, and their size, by itself
    try:
        if image.format == "PNG":
            # PngImageFile.getexif() would decode everything to look for EXIF after the pixels.
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
        else:
            exif = image.getexif()
        value = exif.get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  (broken metadata: no orientation)
        return 1
    return value if isinstance(value, int) and value in _TRANSPOSE else 1


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Any mode as RGB; see the module's text."""
    mode = image.mode
    if mode.startswith("I"):
        return _to_8_bit(image, name).convert("RGB")
    if mode == "F":
        raise ImageError(
            name, "image-undecodable", "floating-point pixels", mode, "8 or 16 bits a channel"
        )
    if _is_transparent(image):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _to_8_bit(image: Image.Image, name: str) -> Image.Image:
    """An image in one of the modes I, I;16, I;16B, .. in mode L."""
    values = np.asarray(image)
    grey = np.empty(values.shape, dtype=np.uint8)
    # A few rows at a time: wide integers for a whole large image would take gigabytes.
    for start in range(0, len(values), _ROWS):
        rows = values[start : start + _ROWS]
        if rows.size and (rows.min() < 0 or rows.max() > 65535):
            raise ImageError(
                name,
                "image-undecodable",
                "32-bit pixels beyond the range of 16 bit",
                f"{rows.min()} to {rows.max()}",
                "0 to 65535",
            )
        grey[start : start + _ROWS] = (rows.astype(np.uint32) * 255 + 32767) // 65535
    return Image.fromarray(grey)
