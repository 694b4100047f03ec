"""The pixel rule, on files made here."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from components.contract.pixels import ImageError, decode, glance, load_rgb, read_size


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def corner_image() -> Image.Image:
    """4 wide, 2 high; red top left, blue bottom right, black else."""
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 0, 0))
    image.putpixel((3, 1), (0, 0, 255))
    return image


# Where the red top left corner is seen once the orientation is applied: (row, column).
CORNERS = {
    1: (0, 0),
    2: (0, -1),
    3: (-1, -1),
    4: (-1, 0),
    5: (0, 0),
    6: (0, -1),
    7: (-1, -1),
    8: (-1, 0),
}


@pytest.mark.parametrize("orientation", CORNERS)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_orientation_turns_pixels_and_size(tmp_path, format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    path = tmp_path / "image"
    path.write_bytes(encoded(corner_image(), format, exif=exif, **options))
    pixels = load_rgb(path)
    assert tuple(pixels[CORNERS[orientation]]) == (255, 0, 0)
    assert pixels.shape == ((2, 4, 3) if orientation < 5 else (4, 2, 3))
    assert read_size(path) == (pixels.shape[1], pixels.shape[0])


def test_jpeg_orientation_and_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif))
    assert load_rgb(path).shape == (40, 20, 3)
    assert read_size(path) == (20, 40)


@pytest.mark.parametrize(
    ("image", "expected", "reason"),
    [
        (Image.new("L", (2, 2), 7), (7, 7, 7), "grey is spread"),
        (Image.new("1", (2, 2), 1), (255, 255, 255), "a bit is black or white"),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 0)), (255, 255, 255), "nothing shows white"),
        (Image.new("RGBA", (2, 2), (200, 0, 0, 255)), (200, 0, 0), "opaque stays"),
        (Image.new("LA", (2, 2), (50, 255)), (50, 50, 50), "opaque grey stays"),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), (255, 255, 255), "16 bit white"),
        (Image.fromarray(np.full((2, 2), 257 * 100, np.uint16)), (100, 100, 100), "16 bit scaled"),
        (Image.new("RGB", (2, 2), (9, 8, 7)).quantize(4), (9, 8, 7), "palette is looked up"),
    ],
)
def test_modes(image, expected, reason):
    pixels = decode(encoded(image), "x").pixels
    assert pixels.dtype == np.uint8 and pixels.shape == (2, 2, 3)
    assert tuple(int(value) for value in pixels[0, 0]) == expected, reason


def test_transparent_palette_entry_is_white():
    image = Image.new("RGB", (2, 2), (9, 8, 7)).quantize(4)
    index = image.getpixel((0, 0))
    assert tuple(decode(encoded(image, transparency=index), "x").pixels[0, 0]) == (255, 255, 255)


def test_cmyk_jpeg():
    data = encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG")
    decoded = decode(data, "x")
    assert decoded.mode == "CMYK"
    assert decoded.pixels.max() < 8


def test_first_frame_counts():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    decoded = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "x")
    assert tuple(decoded.pixels[0, 0]) == (255, 0, 0)
    assert decoded.num_frames == 2


def test_pixels_are_writable_and_own_their_memory():
    pixels = decode(encoded(corner_image()), "x").pixels
    pixels[:] = 1


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "check"),
    [
        (b"", "file-empty"),
        (b"<html>not an image</html>", "image-undecodable"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image-undecodable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image-undecodable"),
        (encoded(Image.effect_noise((64, 64), 90))[:-900], "image-undecodable"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:-900], "image-undecodable"),
        (png_claiming(8, 8), "image-undecodable"),
        (png_claiming(30_000, 30_000), "image-too-large"),
        (png_claiming(2**31 - 1, 2**31 - 1), "image-too-large"),
        (png_claiming(0, 5), "image-undecodable"),
        (encoded(Image.new("F", (2, 2)), "TIFF"), "image-undecodable"),
    ],
)
def test_what_is_refused(tmp_path, data, check):
    path = tmp_path / "image.jpg"
    path.write_bytes(data)
    cap = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError) as caught:
        load_rgb(path)
    assert caught.value.check == check
    assert str(caught.value).startswith(f"{path}: ")
    assert cap == Image.MAX_IMAGE_PIXELS
    assert pickle.loads(pickle.dumps(caught.value)).check == check


def test_missing_folder_and_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for name in ("missing", ".", "pipe", "nul\0", "x" * 300):
        with pytest.raises(ImageError) as caught:
            load_rgb(tmp_path / name)
        assert caught.value.check == "file-missing"


def test_caps_are_arguments(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("RGB", (10, 10))))
    assert load_rgb(path, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(ImageError, match="10 x 10 pixels"):
        load_rgb(path, max_pixels=99)
    with pytest.raises(ImageError, match="MB"):
        load_rgb(path, max_bytes=10)


def test_imports_neither_pandas_nor_torch():
    code = "import sys, components.contract.pixels; print({'pandas', 'torch'} & set(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "set()"


def soft(mode: str, size: tuple[int, int] = (301, 203)) -> Image.Image:
    """A smooth picture in any mode."""
    grid = np.random.default_rng(3).integers(0, 256, (5, 7, 4)).astype(np.uint8)
    rgba = Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(rgba.convert("L")).astype(np.uint16) * 257)
    return rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)


@pytest.mark.parametrize("orientation", [1, 2, 5, 6, 8])
@pytest.mark.parametrize(
    ("mode", "format"),
    [
        ("L", "PNG"),
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("P", "PNG"),
        ("I;16", "PNG"),
        ("I;16", "TIFF"),
        ("RGB", "WEBP"),
        ("L", "JPEG"),
        ("RGB", "JPEG"),
        ("CMYK", "JPEG"),
        ("LAB", "TIFF"),
    ],
)
def test_the_glance_shows_what_is_decoded(mode, format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(soft(mode), format, exif=exif)
    seen, whole = glance(data, "x", 10**6, 64), decode(data, "x")
    assert (seen.height, seen.width) == whole.pixels.shape[:2]
    for name in ("format", "mode", "orientation", "num_frames"):
        assert getattr(seen, name) == getattr(whole, name)
    expected = Image.fromarray(whole.pixels).convert("L").resize((64, 64), Image.Resampling.BOX)
    assert seen.grey.shape == (64, 64)
    error = np.abs(seen.grey.astype(int) - np.asarray(expected))
    assert error.mean() < 3 and error.max() < 40


def test_the_glance_does_not_enlarge():
    assert glance(encoded(Image.new("L", (9, 200))), "x", 10**6, 64).grey.shape == (64, 9)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_seen_wherever_it_ends(progressive):
    data = encoded(Image.effect_noise((300, 200), 90), "JPEG", progressive=progressive)
    for end in range(4, len(data) - 2, len(data) // 60):
        with pytest.raises(ImageError) as caught:
            glance(data[:end], "x", 10**6, 64)
        assert caught.value.check == "image-undecodable"


def gif_of_pieces(num_frames: int) -> bytes:
    frame = b",\0\0\0\0\1\0\1\0\0\2\2\x4c\1\0"
    head = b"GIF89a\1\0\1\0\x80\0\0" + b"\0\0\0\xff\xff\xff"
    return head + frame * num_frames + b";"


def test_frames_are_counted():
    assert decode(gif_of_pieces(100), "x").num_frames == 100
    pages = [Image.new("L", (3, 3), number) for number in range(5)]
    tiff = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    decoded = decode(tiff, "x")
    assert (decoded.num_frames, decoded.pixels[0, 0, 0]) == (5, 0)


def test_a_file_of_endless_pieces_is_given_up():
    for data in (gif_of_pieces(100_000), gif_of_pieces(0)[:-1] + b"!\xfe" + b"\1a" * 200_000):
        with pytest.raises(ImageError, match="too many pieces") as caught:
            decode(data, "x")
        assert caught.value.check == "image-undecodable"


def test_16_bit_pixels_are_scaled_in_every_row():
    values = np.arange(600 * 40, dtype=np.uint16).reshape(600, 40) * 2
    expected = np.round(values / 257).astype(np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(values)), "x").pixels[..., 1], expected)
