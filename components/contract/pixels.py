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
from typing import Any

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
    if not data:
        raise ImageError(name, "file-empty", "the file is empty", "0 bytes", "an image")
    with _opened(io.BytesIO(data), name) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                name,
                "image-too-large",
                f"the image has {width} x {height} pixels",
                f"{width * height / 1e6:.1f} megapixels",
                f"at most {max_pixels / 1e6:g} megapixels",
            )
        mode, file_format = image.mode, str(image.format)
        orientation = _orientation(image)
        num_frames = int(getattr(image, "n_frames", 1))
        image.load()
        rgb = to_rgb(image, name)
        if orientation > 1:
            rgb = rgb.transpose(_TRANSPOSE[orientation])
        pixels = np.array(rgb)  # a copy: writable, and free of the Pillow image
    # A JPEG with a second, smaller picture inside is opened as MPO; it is a JPEG to us.
    return Decoded(
        pixels, "JPEG" if file_format == "MPO" else file_format, mode, orientation, num_frames
    )


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
        values = np.asarray(image).astype(np.int64)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ImageError(
                name,
                "image-undecodable",
                "32-bit pixels beyond the range of 16 bit",
                f"{values.min()} to {values.max()}",
                "0 to 65535",
            )
        grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if mode == "F":
        raise ImageError(
            name, "image-undecodable", "floating-point pixels", mode, "8 or 16 bits a channel"
        )
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")
