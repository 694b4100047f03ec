"""Hostile data sets: each is a clean one in which something was put that means harm.

`CASES` is the table. A case builds its set in `root`; `outside` is a folder beside it that must
neither be read nor written.
"""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from five_formats import RawSet, encode, image_path, make, write
from PIL import Image

Build = Callable[[Path, Path], Any]
SECRET = "secret.jpg"


@dataclass(frozen=True)
class Case:
    """One hostile set.

    Args:
        name: of the case, unique.
        format: it is read as.
        build: `build(root, outside)` makes it.
        may_pass: it may be accepted without a finding: odd, not wrong.
        slow: takes long to make or to read.
    """

    name: str
    format: str
    build: Build
    may_pass: bool = False
    slow: bool = False

    @property
    def task(self) -> str:
        """What it is read for."""
        return "classification" if self.format == "folder" else "detection"


def clean(format: str) -> RawSet:
    """The set that all cases start from."""
    return copy.deepcopy(_clean("classification" if format == "folder" else "detection"))


@functools.cache
def _clean(task: Literal["classification", "detection"]) -> RawSet:
    return make(task, seed=9, counts={"train": 6, "val": 3, "test": 3})


def png(width: int, height: int, body: bytes, extra: bytes = b"", bits: int = 8) -> bytes:
    """A PNG file with any header; `body` is what its pixels inflate to."""
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = _chunk(b"IHDR", head) + extra + _chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + chunks + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _picture(suffix: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (72, 96, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), suffix, **options)


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../evil.txt", "x")
    return stream.getvalue()


def _broken_crc() -> bytes:
    data = bytearray(_picture(".png"))
    data[-30] ^= 0xFF
    return bytes(data)


def _tiff(entries: list[tuple[int, int, int, int]], next_ifd: int = 0) -> bytes:
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + struct.pack("<I", next_ifd)


def _frames(number: int) -> bytes:
    frames = [Image.new("P", (16, 16), n % 256) for n in range(number)]
    return encode(frames[0], ".gif", save_all=True, append_images=frames[1:])


def _huge_tiff() -> bytes:
    return _tiff([(256, 4, 1, 100_000), (257, 4, 1, 100_000), (258, 3, 1, 8), (262, 3, 1, 1),
                  (273, 4, 1, 8), (278, 4, 1, 100_000), (279, 4, 1, 10)])  # fmt: skip


# name, extension, bytes (made when needed), may pass
_FILES: list[tuple[str, str, Callable[[], bytes], bool]] = [
    ("zero bytes", ".jpg", lambda: b"", False),
    ("one byte", ".jpg", lambda: b"\xff", False),
    ("JPEG cut at 10 %", ".jpg", lambda: _picture(".jpg")[:1000], False),
    ("JPEG cut at the end", ".jpg", lambda: _picture(".jpg")[:-400], False),
    ("PNG cut", ".png", lambda: _picture(".png")[:9000], False),
    ("PNG with a broken checksum", ".png", _broken_crc, False),
    ("PNG signature only", ".png", lambda: b"\x89PNG\r\n\x1a\n", False),
    ("PNG of no width", ".png", lambda: png(0, 10, b""), False),
    ("PNG bomb", ".png", lambda: png(60_000, 60_000, bytes(1 << 20)), False),
    ("PNG of 2^31 pixels a side", ".png", lambda: png(2**31 - 1, 2**31 - 1, b""), False),
    ("PNG of 100 megapixels", ".png", lambda: png(10_000, 10_000, bytes(10_000 * 1251), bits=1),
     False),
    ("PNG whose text inflates to 200 MB", ".png",
     lambda: png(40, 40, bytes(40 * 41),
                 _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(200_000_000)))), False),
    ("PNG whose profile inflates to 200 MB", ".png",
     lambda: png(40, 40, bytes(40 * 41),
                 _chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(200_000_000)))), False),
    ("PNG with pixels missing", ".png", lambda: png(4000, 4000, bytes(100)), False),
    ("GIF that says 65535 x 65535", ".gif",
     lambda: b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;", False),
    ("GIF of 3000 frames", ".gif", lambda: _frames(3000), False),
    ("BMP of 2^31 pixels a side", ".bmp",
     lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1,
                                 24, 0, 0, 0, 0, 0, 0), False),
    ("BMP of negative width", ".bmp",
     lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, -5, 9, 1, 24, 0, 0, 0, 0,
                                 0, 0), False),
    ("TIFF whose directory is its own next", ".tif",
     lambda: _tiff([(256, 4, 1, 9), (257, 4, 1, 9)], 8), False),
    ("TIFF of 10^10 pixels", ".tif", _huge_tiff, False),
    ("TIFF with a tag of 4 GB", ".tif", lambda: _tiff([(256, 4, 2**32 - 1, 8)]), False),
    ("PPM of 10^18 pixels", ".ppm", lambda: b"P6 1000000000 1000000000 255\n", False),
    ("PPM of -1 pixels", ".ppm", lambda: b"P6 -1 -1 255\n", False),
    ("PPM with an endless number", ".ppm", lambda: b"P6 " + b"9" * 100_000, False),
    ("WebP cut", ".webp", lambda: b"RIFF\xff\xff\xff\x7fWEBPVP8 \xff\xff\xff\x7f", False),
    ("HTML named .jpg", ".jpg", lambda: b"<html><script>alert(1)</script></html>", False),
    ("SVG named .jpg", ".jpg",
     lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
     False),
    ("PostScript named .jpg", ".jpg", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd)(r)file\n",
     False),
    ("PDF named .png", ".png", lambda: b"%PDF-1.7\n1 0 obj<</Type/Catalog>>\n", False),
    ("zip named .png", ".png", _zip, False),
    ("program named .jpg", ".jpg", lambda: b"\x7fELF\x02\x01\x01" + bytes(5000), False),
    ("70 MB of zeros", ".jpg", lambda: bytes(70_000_000), False),
    ("EXIF orientation 99", ".jpg",
     lambda: _picture(".jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0c\0\0\0"
                                   b"\0\0\0\0"), True),
    ("EXIF that points beyond itself", ".jpg",
     lambda: _picture(".jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"), True),
]  # fmt: skip


def _with_file(format: str, suffix: str, data: Callable[[], bytes]) -> Build:
    def build(root: Path, outside: Path) -> None:
        raw = clean(format)
        raw.samples[0].name = f"hostile{suffix}"
        raw.samples[0].data = data()
        write(raw, root, format)

    return build


_NAMES: list[tuple[str, str | bytes]] = [
    ("a newline", "a\nb.jpg"),
    ("a control character", "a\x1b[2Jb.jpg"),
    ("emoji", "\N{PILE OF POO}\N{ZERO WIDTH JOINER}.jpg"),
    ("255 bytes", "x" * 251 + ".jpg"),
    ("text from right to left", "\u202egpj.exe.jpg"),
    ("HTML", "<img src=x onerror=alert(1)>.jpg"),
    ("a shell command", "$(touch evil);`id`.jpg"),
    ("a leading dash", "-rf.jpg"),
    ("a backslash", "..\\..\\x.jpg"),
    ("quotes and commas", "a\",'b.jpg"),
    ("spaces only", "   .jpg"),
    ("bytes that are no text", b"\xff\xfe.jpg"),
]


def _named(format: str, name: str | bytes) -> Build:
    def build(root: Path, outside: Path) -> None:
        raw = clean(format)
        raw.samples[0].name = name if isinstance(name, str) else os.fsdecode(name)
        write(raw, root, format)

    return build


def _alike(format: str) -> Build:
    def build(root: Path, outside: Path) -> None:
        raw = clean(format)
        raw.samples[0].name, raw.samples[3].name = "same.jpg", "SAME.jpg"
        write(raw, root, format)

    return build


def _replaced(format: str, put: Callable[[Path, Path], Any]) -> Build:
    """The first image file is replaced by what `put(path, outside)` makes."""

    def build(root: Path, outside: Path) -> None:
        raw = clean(format)
        write(raw, root, format)
        path = root / image_path(raw, raw.samples[0], format)
        path.unlink()
        put(path, outside)

    return build


def _circle(path: Path, outside: Path) -> None:
    other = path.with_name("other.jpg")
    path.symlink_to(other)
    other.symlink_to(path)


def _folder_link(target: Callable[[Path, Path], Path]) -> Build:
    def build(root: Path, outside: Path) -> None:
        write(clean("folder"), root, "folder")
        (root / "train" / "cat" / "more").symlink_to(target(root, outside))

    return build


def _deep(root: Path, outside: Path) -> None:
    raw = clean("folder")
    write(raw, root, "folder")
    place = root / "train" / "cat"
    for _ in range(400):
        place = place / "dddd"
    place.mkdir(parents=True)
    (place / "x.jpg").write_bytes(raw.samples[0].data[:-1])


_PUT: list[tuple[str, Callable[[Path, Path], Any]]] = [
    ("a link out", lambda path, outside: path.symlink_to(outside / SECRET)),
    ("a relative link out", lambda path, outside: path.symlink_to(
        os.path.relpath(outside / SECRET, path.parent))),
    ("a link to /etc/passwd", lambda path, outside: path.symlink_to("/etc/passwd")),
    ("a link to /dev/zero", lambda path, outside: path.symlink_to("/dev/zero")),
    ("links in a circle", _circle),
    ("a link to itself", lambda path, outside: path.symlink_to(path)),
    ("a link to nothing", lambda path, outside: path.symlink_to(path.with_name("none"))),
    ("a pipe", lambda path, outside: os.mkfifo(path)),
    ("a folder", lambda path, outside: path.mkdir()),
]  # fmt: skip

_PATHS: list[tuple[str, str]] = [
    ("..", f"../outside/{SECRET}"),
    ("many ..", "../" * 40 + "etc/passwd"),
    ("a .. inside", f"images/../../outside/{SECRET}"),
    ("an absolute path", "/etc/passwd"),
    ("two slashes", "//etc/passwd"),
    ("a drive", "C:\\Windows\\win.ini"),
    ("backslashes", f"..\\outside\\{SECRET}"),
    ("nothing", ""),
    ("a dot", "."),
    ("5000 letters", "x" * 5000),
    ("a URL", "file:///etc/passwd"),
    ("a home", "~/secret.jpg"),
    ("a device", "/dev/zero"),
]

_NOWHERE = {"nothing", "a dot", "5000 letters", "a URL", "a home"}


def _path_text(format: str, path: str) -> Build:
    """The annotations name the first image by another path."""

    def build(root: Path, outside: Path) -> None:
        raw = clean(format)
        write(raw, root, format)
        name = raw.samples[0].name
        if format == "coco":
            edit_json(root, lambda content: content["images"][0].update(file_name=path))
            return
        file = root / (f"Annotations/{Path(name).stem}.xml" if format == "voc" else "labels.csv")
        old = name if format == "voc" else image_path(raw, raw.samples[0], format)
        file.write_text(file.read_text().replace(old, path))

    return build


def edit_json(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Edits the COCO file of train."""
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def json_edit(change: Callable[[dict[str, Any]], Any]) -> Build:
    """A COCO set whose train file is edited."""

    def build(root: Path, outside: Path) -> None:
        write(clean("coco"), root, "coco")
        edit_json(root, change)

    return build


def content(format: str, name: str, make_bytes: Callable[[bytes, Path], bytes]) -> Build:
    """A set of which one file's content is made anew from the old one.

    Args:
        name: of the file; the first that matches the pattern.
        make_bytes: from the old content and the folder outside.
    """

    def build(root: Path, outside: Path) -> None:
        write(clean(format), root, format)
        file = sorted(root.glob(name))[0]
        file.write_bytes(make_bytes(file.read_bytes(), outside))

    return build


def fixed(data: bytes) -> Callable[[bytes, Path], bytes]:
    """The same content whatever there was."""
    return lambda old, outside: data


CASES: list[Case] = [
    *(Case(f"{form} file: {name}", form, _with_file(form, suffix, data), fine)
      for form in ("folder", "coco") for name, suffix, data, fine in _FILES),
    *(Case(f"{form} name: {name}", form, _named(form, text), may_pass=True)
      for form in ("folder", "coco") for name, text in _NAMES
      if form == "folder" or not isinstance(text, bytes)),
    *(Case(f"{form} name: case collision", form, _alike(form)) for form in ("folder", "coco")),
    *(Case(f"{form}: {name}", form, _replaced(form, put), name == "a folder" and form == "folder")
      for form in ("folder", "coco", "csv", "voc", "yolo") for name, put in _PUT),
    # VOC: a file name that leads nowhere is passed over where the XML file's own name leads to one.
    *(Case(f"{form} path: {name}", form, _path_text(form, path),
           may_pass=form == "voc" and name in _NOWHERE)
      for form in ("coco", "csv", "voc") for name, path in _PATHS),
    Case("folder: a folder linked out", "folder", _folder_link(lambda root, outside: outside)),
    Case("folder: a folder linked in a circle", "folder", _folder_link(lambda root, _: root)),
    Case("folder: a folder linked to /proc", "folder", _folder_link(lambda *_: Path("/proc"))),
    Case("folder: 400 folders deep", "folder", _deep, may_pass=True),
]  # fmt: skip
