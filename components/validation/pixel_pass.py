"""The one pass over the pixels: every image is read and decoded once, in parallel processes.

Needs Pillow and numpy only, so that the processes start quickly.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from components.contract.near_duplicates import FLAT_HASH
from components.contract.pixels import ImageError, glance, read_bytes
from components.errors import DataError

FLAT = 2.0  # standard deviation of the luminance, 0 to 255; `flat-image` then says all there is
_CHUNK = 16  # images a process takes at once
_AHEAD = 4  # chunks in flight for each process
_SIDE = 128  # of the grey copy that all is measured on
_NOISE = 8  # grey levels: in a nearly flat image noise is not an edge
_FEW = 48  # so few images are decoded faster than processes start


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What one image file turned out to be.

    Args:
        path: as given.
        fault: `(check, message, value, allowed)` if it cannot be used; all else is then empty.
        width, height: pixels, after EXIF orientation.
        sha256: of the file's bytes.
        phash: 64-bit DCT hash of the looks, 16 hexadecimal digits; `FLAT_HASH` of a flat image.
        format, mode, orientation, num_frames: see `components.contract.pixels.Decoded`.
        brightness: mean luminance, 0 to 255.
        contrast: standard deviation of the luminance of a 32 x 32 copy.
        sharpness: how steep the sharpest edges are, see `edge_sharpness`; 1 and above is sharp.
        entropy: bits that a pixel's luminance carries, 0 to 8.
        num_bytes: of the file.
    """

    path: str
    fault: tuple[str, str, str, str] | None = None
    width: int = 0
    height: int = 0
    sha256: str = ""
    phash: str = ""
    format: str = ""
    mode: str = ""
    orientation: int = 1
    num_frames: int = 1
    brightness: float = 0.0
    contrast: float = 0.0
    sharpness: float = 0.0
    entropy: float = 0.0
    num_bytes: int = 0


def examine(root: str, path: str, max_pixels: int, max_bytes: int) -> ImageFacts:
    """Read and decode one image; what is wrong with it is in the result, not raised."""
    try:
        data = read_bytes(Path(root) / path, max_bytes)
        seen = glance(data, path, max_pixels, _SIDE)
    except ImageError as error:
        return ImageFacts(path, (error.check, error.reason, error.value, error.allowed))
    grey = Image.fromarray(seen.grey)
    small = np.asarray(grey.resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    contrast = round(float(small.std()), 2)
    return ImageFacts(
        path,
        None,
        seen.width,
        seen.height,
        hashlib.sha256(data).hexdigest(),
        dct_hash(small) if contrast >= FLAT else FLAT_HASH,
        seen.format,
        seen.mode,
        seen.orientation,
        seen.num_frames,
        round(float(small.mean()), 2),
        contrast,
        round(edge_sharpness(seen.grey), 3),
        round(grey.entropy(), 2),
        len(data),
    )


def edge_sharpness(grey: np.ndarray) -> float:
    """How steep an image's sharpest edges are, whatever its contrast and however few they are.

    The 99.9th percentile of the Laplacian's magnitude over the range from the 1st to the 99th
    percentile of the luminance. The spread of the whole Laplacian, the usual measure, takes a
    sharp object before a plain background for a blurred one.

    Args:
        grey: [height, width] uint8 luminance; values compare between copies of the same size.

    Returns:
        0 (no edges) to about 4; 0 for images of less than 3 pixels a side.
    """
    if min(grey.shape) < 3:
        return 0.0
    values = grey.astype(np.int16)
    inner = values[1:-1, 1:-1]
    laplacian = 4 * inner - values[:-2, 1:-1] - values[2:, 1:-1]
    laplacian -= values[1:-1, :-2] + values[1:-1, 2:]
    steepest = _percentiles(np.bincount(np.abs(laplacian).ravel(), minlength=1021), 0.999)[0]
    low, high = _percentiles(np.bincount(grey.ravel(), minlength=256), 0.01, 0.99)
    return float(steepest / (high - low + _NOISE))


def _percentiles(histogram: np.ndarray, *shares: float) -> np.ndarray:
    """The values below or at which these shares of the counted values lie."""
    below = np.cumsum(histogram)
    return np.searchsorted(below, np.asarray(shares) * below[-1])


def dct_hash(luminance: np.ndarray) -> str:
    """A 64-bit hash that is the same for images that look the same.

    The 8 x 8 lowest frequencies of the cosine transform, each compared with their median (the
    scheme known as pHash).

    Args:
        luminance: [32, 32] floats.

    Returns:
        16 hexadecimal digits.
    """
    low = (_COSINES @ luminance @ _COSINES.T).ravel()
    # The constant term says how bright the image is, not what it shows.
    bits = low > np.median(low[1:])
    return np.packbits(bits).tobytes().hex()


def _cosines(num_frequencies: int, size: int) -> np.ndarray:
    """[num_frequencies, size] rows of the type II cosine transform."""
    place = (np.arange(size) + 0.5) / size
    return np.cos(np.pi * np.arange(num_frequencies)[:, None] * place)


_COSINES = _cosines(8, 32)


def examine_all(
    root: Path, paths: Sequence[str], max_pixels: int, max_bytes: int, num_workers: int
) -> Iterator[ImageFacts]:
    """Facts about all images, in the order of `paths`.

    Memory does not grow with their number: only a few chunks are under way at a time.

    Args:
        root: the data root.
        paths: relative to it, known to lie inside.
        max_pixels: most pixels accepted of an image.
        max_bytes: largest file accepted.
        num_workers: processes; 0 means one per core.

    Raises:
        DataError: a process was killed, for lack of memory for example.
    """
    num_workers = min(num_workers or len(os.sched_getaffinity(0)), len(paths) // _CHUNK)
    if num_workers <= 1 or len(paths) <= _FEW:
        yield from _examine_chunk(str(root), paths, max_pixels, max_bytes)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        waiting: deque[tuple[Sequence[str], Future[list[ImageFacts]]]] = deque()
        chunks = (paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK))
        try:
            while True:
                while len(waiting) < num_workers * _AHEAD and (chunk := next(chunks, None)):
                    future = pool.submit(_examine_list, str(root), chunk, max_pixels, max_bytes)
                    waiting.append((chunk, future))
                if not waiting:
                    return
                chunk, future = waiting.popleft()
                try:
                    facts = future.result()
                except BrokenProcessPool:
                    raise DataError(
                        "a process that decodes images was killed, probably for lack of memory, "
                        f"near {chunk[0]}; lower validate.num_workers or validate.max_megapixels"
                    ) from None
                yield from facts
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _examine_chunk(
    root: str, paths: Sequence[str], max_pixels: int, max_bytes: int
) -> Iterator[ImageFacts]:
    for path in paths:
        yield examine(root, path, max_pixels, max_bytes)


def _examine_list(
    root: str, paths: Sequence[str], max_pixels: int, max_bytes: int
) -> list[ImageFacts]:
    return list(_examine_chunk(root, paths, max_pixels, max_bytes))
