"""What one Pascal VOC annotation says of its image, in canonical form, with what is wrong in it."""

from __future__ import annotations

from components.contract.annotation_values import number
from components.contract.class_names import name_fault
from components.contract.file_findings import FileFindings
from components.contract.reading import Box, RawObject
from components.contract.voc_xml import VocAnnotation, VocObject


def declared_size(annotation: VocAnnotation, faults: FileFindings) -> tuple[float, float] | None:
    """Width and height that an annotation declares, pixels; None if it does not."""
    texts = [annotation.size.get("width", ""), annotation.size.get("height", "")]
    if not any(texts):
        return None
    width, height = map(number, texts)
    if width is None or height is None:
        faults.add("image-row-broken", "size", "width and height must be numbers of pixels", texts)
        return None
    return width, height


def read_object(item: VocObject, image: int, place: str, faults: FileFindings) -> RawObject | None:
    """One object; None if it cannot be used, which is then in `faults`."""
    fields = item.fields
    if item.repeated:
        names = ", ".join(sorted(item.repeated))
        faults.add("annotation-broken", place, "these are given twice for one object", names)
        return None
    name = fields.get("name", "")
    fault = name_fault(name)
    if fault:
        faults.add("class-name", place, fault, name)
    difficult = number(fields.get("difficult") or "0")
    if difficult not in (0, 1):
        shown = fields["difficult"]
        faults.add("annotation-broken", place, "difficult must be 0 or 1", shown, "0 or 1")
    box = _box(fields, place, faults)
    if fault or box is None:
        return None
    where = f"{faults.name}: {place}"
    return RawObject(image, name, box, None, difficult == 1, where)


def _box(fields: dict[str, str], place: str, faults: FileFindings) -> Box | None:
    texts = [fields.get(corner, "") for corner in ("xmin", "ymin", "xmax", "ymax")]
    numbers = [value for value in map(number, texts) if value is not None]
    if len(numbers) != 4:
        faults.add(
            "box-broken",
            place,
            "bndbox must hold four numbers of pixels: xmin, ymin, xmax, ymax",
            texts,
            "for example 10, 20, 40, 60",
        )
        return None
    left, top, right, bottom = numbers
    return left, top, right - left, bottom - top
