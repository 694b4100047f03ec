"""Hostile annotation files: JSON, CSV, XML, YAML, YOLO text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile import CASES as FILE_CASES
from hostile import SECRET, Case, content, fixed, json_edit

_JSON = "annotations/instances_train.json"
_XML = "Annotations/train-00000.xml"
_TXT = "labels/train/train-00000.txt"
_NUMBERS: list[tuple[str, Any]] = [
    ("NaN", float("nan")), ("infinity", float("inf")), ("1e308", 1e308), ("-1e308", -1e308),
    ("an integer of 400 digits", 10**400), ("text", "12"), ("null", None), ("a list", [1]),
    ("an object", {"a": 1}), ("true", True),
]  # fmt: skip


def _box(value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda c: c["annotations"][0].update(bbox=[1, 1, value, 9])


def _key(table: str, key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda c: c[table][0].update({key: value})


def _million(content_: dict[str, Any]) -> None:
    row = content_["annotations"][0]
    content_["annotations"] = [
        {**row, "id": n, "bbox": [n % 40, n % 30, 9, 9]} for n in range(10**6)
    ]


def _million_broken(content_: dict[str, Any]) -> None:
    content_["annotations"] = [{"id": n, "image_id": "x", "bbox": "y"} for n in range(10**6)]


def _piled(columns: Callable[[np.random.Generator, int], list[np.ndarray]]) -> Callable[..., bytes]:
    """A million boxes on one image, so that each has thousands near it.

    Args:
        columns: x, y, width and height from a random generator and the number of boxes.
    """

    def make(data: bytes, outside: Path) -> bytes:
        number = 10**6
        values = np.stack(columns(np.random.default_rng(3), number), axis=1).tolist()
        row = "images/train/train-00000.jpg,bird,{:.3f},{:.3f},{:.3f},{:.3f},96,72,train\r\n"
        return data + "".join(row.format(*box) for box in values).encode()

    return make


_PILES: list[tuple[str, Callable[..., bytes]]] = [
    ("a little apart", _piled(lambda g, n: [
        *g.uniform(0, 2, (2, n)), *g.uniform(48, 52, (2, n))])),
    ("of all sizes", _piled(lambda g, n: [
        *g.uniform(0, 0.01, (2, n)), *g.uniform(1, 70, (2, n))])),
    ("just too unlike to be the same", _piled(lambda g, n: [
        np.ones(n), np.ones(n), 1.055 ** (np.arange(n) % 70), 1.055 ** (np.arange(n) // 70 % 70)])),
]  # fmt: skip


def _swap(old: bytes, new: bytes) -> Callable[[bytes, Path], bytes]:
    return lambda data, outside: data.replace(old, new, 1)


def _entity(text: str) -> Callable[[bytes, Path], bytes]:
    """A document type put before the XML; `&x;` stands in the file name; OUT is outside."""

    def make(data: bytes, outside: Path) -> bytes:
        head = text.replace("OUT", str(outside / SECRET))
        body = data.decode().replace("train-00000", "&x;train-00000", 1)
        return f'<?xml version="1.0"?>{head}{body}'.encode()

    return make


_LAUGHS = "<!DOCTYPE a [<!ENTITY x0 'ha'>" + "".join(
    f"<!ENTITY x{n} '{f'&x{n - 1};' * 10}'>" for n in range(1, 12)
) + "<!ENTITY x '&x11;'>]>"  # fmt: skip
_QUADRATIC = f"<!DOCTYPE a [<!ENTITY y '{'a' * 100_000}'><!ENTITY x '{'&y;' * 20_000}'>]>"

_TEXT_JSON: list[tuple[str, Callable[[bytes, Path], bytes]]] = [
    ("nothing", fixed(b"")),
    ("null", fixed(b"null")),
    ("a list", fixed(b"[]")),
    ("a number of 10^6 digits", fixed(b"9" * 10**6)),
    ("100,000 brackets", fixed(b"[" * 100_000)),
    ("100,000 objects in another", fixed(b'{"a":' * 100_000)),
    ("UTF-16", lambda data, _: data.decode().encode("utf-16")),
    ("Latin-1", _swap(b'"bird"', b'"b\xefrd"')),
    ("a byte order mark", lambda data, _: b"\xef\xbb\xbf" + data),
    ("a NUL inside", _swap(b"bird", b"bi\0rd")),
    ("cut off", lambda data, _: data[:-100]),
    ("keys twice", _swap(b'"images":', b'"images": [], "images": 7, "images":')),
    ("an id twice in one row", _swap(b'"id": 0', b'"id": 5, "id": 99999')),
    ("1e999", _swap(b'"bbox": [', b'"bbox": [1e999, ')),
    ("random bytes", fixed(bytes(range(256)) * 1000)),
    ("50 MB of text", lambda data, _: data[:-1] + b', "x": "' + b"a" * 50_000_000 + b'"}'),
    ("an integer of 10,000 digits as id", _swap(b'"id": 0', b'"id": ' + b"9" * 10_000)),
]
_MAY_PASS = {
    "a formula",
    "keys twice",
    "a byte order mark",
    "50 MB of text",
    "an id twice in one row",
}

_TEXT_CSV: list[tuple[str, Callable[[bytes, Path], bytes]]] = [
    ("nothing", fixed(b"")),
    ("a NUL", _swap(b"bird", b"bi\0rd")),
    ("a formula", _swap(b"bird", b"=cmd|'/c calc'!A0")),
    ("two encodings",
     lambda data, _: data + "images/train/é.jpg,é,1,1,2,2,9,9,train\n".encode("latin-1")),
    ("UTF-16", lambda data, _: data.decode().encode("utf-16")),
    ("a quote that never ends", _swap(b"bird", b'"bird')),
    ("no header", lambda data, _: data.split(b"\n", 1)[1]),
    ("the header only", lambda data, _: data.split(b"\n", 1)[0]),
    ("a cell of 20 MB", _swap(b"bird", b"b" * 20_000_000)),
    ("a million columns", lambda data, _: b"a," * 10**6 + data),
    ("a column twice", _swap(b"path,", b"path,path,")),
    ("short rows", lambda data, _: data + b"images/train/a.jpg\n"),
    ("long rows", lambda data, _: data + b"a," * 5000 + b"\n"),
    ("NaN", lambda data, _: data.replace(b",12,", b",nan,").replace(b"train\r", b"x\r", 1)),
    ("1e308", lambda data, _: data.replace(b"\r\n", b"\r\nimages/train/train-00000.jpg,bird,"
                                           b"1e308,1e308,1e308,1e308,96,72,train\r\n", 1)),
    ("random bytes", fixed(bytes(range(256)) * 1000)),
]  # fmt: skip

_TEXT_XML: list[tuple[str, Callable[[bytes, Path], bytes]]] = [
    ("nothing", fixed(b"")),
    ("a billion laughs", _entity(_LAUGHS)),
    ("quadratic blowup", _entity(_QUADRATIC)),
    ("an external entity", _entity('<!DOCTYPE a [<!ENTITY x SYSTEM "file://OUT">]>')),
    ("an external entity of /etc", _entity('<!DOCTYPE a [<!ENTITY x SYSTEM "/etc/passwd">]>')),
    ("an external document type", _entity('<!DOCTYPE a SYSTEM "file://OUT">')),
    ("a parameter entity", _entity('<!DOCTYPE a [<!ENTITY % p SYSTEM "file://OUT"> %p;]>')),
    ("100,000 elements deep", fixed(b"<a>" * 100_000)),
    ("cut off", lambda data, _: data[:-30]),
    ("another root", fixed(b"<html></html>")),
    ("an unknown encoding", lambda data, _: b'<?xml version="1.0" encoding="x-evil"?>' + data),
    ("NaN", _swap(b"<xmin>", b"<xmin>nan</xmin><xmin>")),
    ("infinity", lambda data, _: data.replace(b"<xmax>", b"<xmax>1e999</xmax><x>", 1)
     .replace(b"</xmax></bndbox>", b"</x></bndbox>", 1)),
    ("1e308", lambda data, _: data.replace(b"<ymin>", b"<ymin>1e308</ymin><q>", 1)
     .replace(b"</ymin><xmax>", b"</q><xmax>", 1)),
    ("a NUL", _swap(b"<name>", b"<name>\0")),
    ("random bytes", fixed(bytes(range(256)) * 1000)),
    ("an attribute of 20 MB",
     _swap(b"<annotation>", b'<annotation a="' + b"a" * 20_000_000 + b'">')),
]  # fmt: skip

_TEXT_YAML: list[tuple[str, Callable[[bytes, Path], bytes]]] = [
    ("nothing", fixed(b"")),
    ("a tag that runs a command", lambda data, outside: data + (
        f"\nx: !!python/object/apply:os.system ['touch {outside}/evil']\n").encode()),
    ("a tag that makes an object", lambda data, _: data + b"\nx: !!python/name:os.system ''\n"),
    ("a bomb of aliases", lambda data, _: data + b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n".encode() for n in range(1, 12))),
    ("names from a bomb of aliases", lambda data, _: b"train: images/train\nval: images/val\n"
     b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n".encode() for n in range(1, 12))
     + b"names: *a11\n"),
    ("10,000 brackets", lambda data, _: data + b"x: " + b"[" * 10_000),
    ("a list", fixed(b"- 1\n- 2\n")),
    ("a NUL", lambda data, _: data + b"x: \0\n"),
    ("10^9 classes", lambda data, _: data + b"nc: 1000000000\n"),
    ("a class id of 10^12", _swap(b"  0:", b"  1000000000000:")),
    ("a path out", lambda data, outside: f"path: {outside}\n".encode() + data),
    ("a path up", lambda data, _: data.replace(b"images/train", b"../outside", 1)),
    ("the root folder", lambda data, _: data.replace(b"images/train", b"/", 1)),
    ("a split that is a number", lambda data, _: data.replace(b"images/train", b"7", 1)),
    ("a list of the root folder", lambda data, _: data.replace(b"images/train", b"[/etc, /]", 1)),
    ("a script to download", lambda data, outside: data + (
        f"\ndownload: |\n  import os\n  os.system('touch {outside}/evil')\n").encode()),
]  # fmt: skip
_MAY_PASS |= {"a script to download", "an unknown encoding", "an attribute of 20 MB"}
_MAY_PASS |= {"a formula", "a bomb of aliases", "an external document type"}

_TEXT_TXT: list[tuple[str, Callable[[bytes, Path], bytes]]] = [
    ("NaN", fixed(b"0 nan 0.5 0.1 0.1\n")),
    ("infinity", fixed(b"0 0.5 inf 0.1 0.1\n")),
    ("1e308", fixed(b"0 1e308 1e308 1e308 1e308\n")),
    ("a class of -1", fixed(b"-1 0.5 0.5 0.1 0.1\n")),
    ("a class of 10^30", fixed(b"1" + b"0" * 30 + b" 0.5 0.5 0.1 0.1\n")),
    ("a class of 10^6 digits", fixed(b"1" * 10**6 + b" 0.5 0.5 0.1 0.1\n")),
    ("text", fixed(b"cat 0.5 0.5 0.1 0.1\n")),
    ("random bytes", fixed(bytes(range(256)) * 1000)),
    ("a line of 20 MB", fixed(b"0.5 " * 5_000_000)),
    ("UTF-16", lambda data, _: data.decode().encode("utf-16")),
]


def _cases(format: str, file: str, texts: list[tuple[str, Any]], kind: str) -> list[Case]:
    return [
        Case(f"{kind}: {name}", format, content(format, file, make), name in _MAY_PASS)
        for name, make in texts
    ]


CASES: list[Case] = [
    *FILE_CASES,
    *(Case(f"JSON bbox: {name}", "coco", json_edit(_box(value))) for name, value in _NUMBERS),
    *(Case(f"JSON image id: {name}", "coco", json_edit(_key("images", "id", value)))
      for name, value in _NUMBERS),
    *(Case(f"JSON width: {name}", "coco", json_edit(_key("images", "width", value)))
      for name, value in _NUMBERS if value is not None),
    *(Case(f"JSON class: {name}", "coco", json_edit(_key("categories", "name", value)))
      for name, value in [*_NUMBERS, ("surrogate", "\ud800"), ("a newline", "a\nb")]
      if name != "text"),
    *(Case(f"JSON mask: {name}", "coco", json_edit(
        _key("annotations", "segmentation", [[value] * 6])))
      for name, value in _NUMBERS if name not in ("1e308", "-1e308")),
    Case("JSON mask: run lengths of 10^9 x 10^9", "coco", json_edit(_key(
        "annotations", "segmentation", {"size": [10**9, 10**9], "counts": [10**18]}))),
    Case("JSON mask: a million points", "coco", json_edit(_key(
        "annotations", "segmentation", [[1.5, 2.5] * 10**6])), may_pass=True),
    Case("JSON: file_name with a lone surrogate", "coco", json_edit(_key(
        "images", "file_name", "\udcff.jpg"))),
    Case("JSON: a million annotations", "coco", json_edit(_million), slow=True),
    Case("JSON: a million broken annotations", "coco", json_edit(_million_broken), slow=True),
    Case("JSON: 200,000 classes", "coco", json_edit(lambda c: c.update(categories=[
        {"id": n, "name": f"c{n}"} for n in range(200_000)]))),
    *_cases("coco", _JSON, _TEXT_JSON, "JSON"),
    *_cases("csv", "labels.csv", _TEXT_CSV, "CSV"),
    Case("CSV: a million rows", "csv", content("csv", "labels.csv", lambda data, _: data
         + b"images/train/train-00000.jpg,bird,1,1,9,9,96,72,train\r\n" * 10**6), slow=True),
    Case("CSV: a million rows of nonsense", "csv", content("csv", "labels.csv", lambda data, _:
         data + b"a,b,c\r\n" * 10**6), slow=True),
    *_cases("csv", "labels.csv", _PILES, "CSV: a million boxes"),
    *_cases("voc", _XML, _TEXT_XML, "XML"),
    Case("XML: 100,000 objects", "voc", content("voc", _XML, lambda data, _: data.replace(
        b"</annotation>", b"<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9"
        b"</xmax><ymax>9</ymax></bndbox></object>" * 100_000 + b"</annotation>")), slow=True),
    *_cases("yolo", "data.yaml", _TEXT_YAML, "YAML"),
    *_cases("yolo", _TXT, _TEXT_TXT, "YOLO text"),
    Case("YOLO text: a million rows", "yolo", content("yolo", _TXT, fixed(
        b"0 0.5 0.5 0.1 0.1\n" * 10**6)), slow=True),
]  # fmt: skip
