"""One Pascal VOC XML file, parsed so that hostile content costs nothing.

A document type is refused before anything it declares is read, so there are neither entities to
expand nor outside files to fetch. Encodings, size and depth are limited.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.parsers import expat

from components.errors import DataError

MAX_BYTES = 16_000_000
_MAX_DEPTH = 32
_MAX_ELEMENTS = 1_000_000
_MAX_OBJECTS = 100_000
_ENCODINGS = ("utf-8", "utf-16", "us-ascii", "ascii", "iso-8859-1", "latin-1", "windows-1252")
_WANTED = {
    ("filename",),
    *(("size", tag) for tag in ("width", "height")),
    *(("object", tag) for tag in ("name", "difficult")),
    *(("object", "bndbox", tag) for tag in ("xmin", "ymin", "xmax", "ymax")),
}


class VocFault(DataError):
    """A file that is not Pascal VOC XML, or not safe to read."""


@dataclass
class VocObject:
    """An `<object>`.

    Args:
        fields: texts of `name`, `difficult`, `xmin`, `ymin`, `xmax`, `ymax` that are there.
        repeated: those that are there more than once.
    """

    fields: dict[str, str] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)


@dataclass
class VocAnnotation:
    """An `<annotation>`: texts as they stand, without spaces around them.

    Args:
        filename: empty if there is none.
        size: texts of `width` and `height` that are there.
        objects: in the order of the file.
    """

    filename: str = ""
    size: dict[str, str] = field(default_factory=dict)
    objects: list[VocObject] = field(default_factory=list)


def parse_voc(data: bytes) -> VocAnnotation:
    """Parse the content of a VOC file.

    Raises:
        VocFault: no XML, not VOC, or something that VOC needs not: a document type, a deep
            nesting, a rare encoding.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    builder = _Builder()
    parser.XmlDeclHandler = _check_encoding
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.EntityDeclHandler = _refuse_doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    try:
        # At once: a long token that comes in pieces is scanned anew with each.
        parser.Parse(data, True)
    except expat.ExpatError as fault:
        raise VocFault(f"not valid XML: {fault}") from None
    except (ValueError, LookupError) as fault:  # of codecs
        raise VocFault(f"not valid XML: {fault}") from None
    return builder.result


def _check_encoding(version: str, encoding: str | None, standalone: int) -> None:
    if encoding is not None and encoding.lower() not in _ENCODINGS:
        raise VocFault(f"the encoding {encoding[:40]!r} is not read; save the file as UTF-8")


def _refuse_doctype(*declared: object) -> None:
    raise VocFault("a document type (DOCTYPE) or entity is declared; VOC files need none")


class _Builder:
    """Takes the parser's events and keeps the few texts that are wanted."""

    def __init__(self) -> None:
        self.result = VocAnnotation()
        self._path: list[str] = []
        self._num_elements = 0
        self._leaf: list[str] | None = None  # pieces of the text of a wanted element

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._path) >= _MAX_DEPTH:
            raise VocFault(f"elements nested more than {_MAX_DEPTH} deep")
        self._num_elements += 1
        if self._num_elements > _MAX_ELEMENTS:
            raise VocFault(f"more than {_MAX_ELEMENTS} elements")
        if not self._path and tag != "annotation":
            raise VocFault(f"not Pascal VOC: the root element is {tag[:40]!r}, not 'annotation'")
        self._path.append(tag)
        if tag == "object" and len(self._path) == 2:
            self.result.objects.append(VocObject())
            if len(self.result.objects) > _MAX_OBJECTS:
                raise VocFault(f"more than {_MAX_OBJECTS} objects")
        self._leaf = [] if self._is_wanted() else None

    def text(self, text: str) -> None:
        if self._leaf is not None:
            self._leaf.append(text)

    def end(self, tag: str) -> None:
        if self._leaf is not None:
            self._keep(tag, "".join(self._leaf).strip())
            self._leaf = None
        self._path.pop()

    def _is_wanted(self) -> bool:
        return len(self._path) <= 4 and tuple(self._path[1:]) in _WANTED

    def _keep(self, tag: str, text: str) -> None:
        match self._path[1]:
            case "filename":
                self.result.filename = text
            case "size":
                self.result.size[tag] = text
            case "object":
                item = self.result.objects[-1]
                if tag in item.fields:
                    item.repeated.add(tag)
                item.fields[tag] = text
