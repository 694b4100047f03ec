"""Every check there is: its name, what it looks for, and how severe a violation is.

The one list that readers and checks draw their findings from, that `validate.severity` is checked
against, and that `docs/validation.md` and the page show. A check that is not here cannot be raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]
Family = Literal["structure", "file", "image", "annotation", "split", "drift"]


@dataclass(frozen=True)
class Check:
    """One rule.

    Attributes:
        family: what it is about.
        severity: of a violation, unless `validate.severity` says otherwise.
        fixed: its severity cannot be lowered: data that breaks it cannot be used, or not safely.
        meaning: what a violation is, in a few words.
    """

    family: Family
    severity: Severity
    meaning: str
    fixed: bool = False


def _table(family: Family, severity: Severity, rows: dict[str, str]) -> dict[str, Check]:
    """Rows of one family and severity; a meaning that ends in `!` cannot be lowered."""
    return {
        name: Check(family, severity, meaning.removesuffix("!"), meaning.endswith("!"))
        for name, meaning in rows.items()
    }


CHECKS: dict[str, Check] = {
    **_table(
        "structure",
        "error",
        {
            "annotations-unreadable": "an annotation file that cannot be read!",
            "annotation-broken": "a row of annotations with a value missing or of the wrong type!",
            "image-row-broken": "an image's row with a value missing or of the wrong type!",
            "category-broken": "a class's row with a value missing or of the wrong type!",
            "area-broken": "an area that is no number, or below 0",
            "no-classes": "no classes, or an empty class list!",
            "duplicate-class": "a class named twice!",
            "class-name": "a class name that is empty, no text, or cannot be printed!",
            "class-missing": "base.classes has a class that the data lacks!",
            "categories-differ": "class lists of annotation files that differ!",
            "duplicate-category-id": "a class id used twice!",
            "duplicate-image-id": "an image id used twice!",
            "duplicate-annotation-id": "an annotation id used twice",
            "duplicate-image": "a file named twice by the annotations!",
            "no-images": "no usable image!",
            "split-missing": "the data brings its splits, but not train and val!",
            "split-unknown": "an annotation file whose name does not tell its split!",
            "column-missing": "a table lacks a column!",
            "quarantine-share": "more images with errors than validate.quarantine_max_share!",
            "check-failed": "a check that itself failed: what it checks is not known to be fine!",
        },
    ),
    **_table(
        "structure",
        "warning",
        {
            "label-without-image": "annotations for an image that is not there",
            "image-without-label": "an image without annotations where others have them",
            "images-without-objects": "images without an object; they count as background",
            "class-unused": "a class that no image has",
            "class-names-alike": "classes that differ only by case or Unicode form",
            "folder-ignored": "a folder with images that is not read",
            "unsupported-extension": "a file whose extension is no image's; it is not read",
        },
    ),
    **_table(
        "file",
        "error",
        {
            "file-missing": "an image that is named and not there!",
            "file-empty": "a file of zero bytes!",
            "file-too-large": "a file above validate.max_file_megabytes!",
            "image-too-large": "more pixels than validate.max_megapixels (decompression bomb)!",
            "image-undecodable": "not an image, or truncated!",
            "path-escape": "a path that leads, or could lead, out of the data!",
        },
    ),
    **_table(
        "file",
        "warning",
        {
            "content-differs-from-extension": "an image of another format than its extension says",
            "names-alike": "names that differ only by case or Unicode form",
            "several-frames": "more than one frame or page; the first is used",
        },
    ),
    **_table(
        "image",
        "error",
        {"image-size": "the annotations declare another size than the image has!"},
    ),
    **_table(
        "image",
        "warning",
        {
            "exif-orientation": "stored turned, upright by its EXIF orientation",
            "odd-mode": "grey, transparent, CMYK, palette or 16-bit where most are not",
            "small-image": "very few pixels on a side",
            "long-image": "very long and thin",
            "flat-image": "almost one single colour",
            "dark-image": "too dark",
            "light-image": "too light",
            "blurred-image": "without sharp edges",
            "low-information": "little to see: few different values",
            "odd-size": "a file or picture size far from the others'",
        },
    ),
    **_table(
        "annotation",
        "error",
        {
            "box-broken": "a box that is not four numbers!",
            "box-not-finite": "a box with NaN or infinity!",
            "box-empty": "a box without width or height!",
            "box-outside": "a box wholly outside its image!",
            "box-units": "fractions where pixels belong, or pixels where fractions belong!",
            "class-unknown": "a class that the class list lacks!",
            "image-id-unknown": "an annotation of an image that the file does not list!",
            "segmentation-broken": "a broken polygon or run-length mask",
            "label-row-broken": "a row of labels that does not follow its table's form!",
        },
    ),
    **_table(
        "annotation",
        "warning",
        {
            "box-partly-outside": "a box that sticks out of its image and will be cut",
            "tiny-box": "a box of under 3 pixels at training size",
            "large-box": "a box over 95 % of the image",
            "long-box": "a box with an aspect over 50",
            "duplicate-box": "the same box twice with the same class",
            "contradictory-box": "the same box with two classes",
            "many-boxes": "very many boxes on an image",
        },
    ),
    **_table(
        "split",
        "error",
        {
            "split-empty": "a split without a usable image!",
            "duplicate-across-splits": "the same content in two splits",
            "contradictory-across-splits": "the same content in two splits, labelled differently",
            "group-across-splits": "a group (video, patient, product) in two splits",
            "class-not-in-train": "a class in val or test that train lacks!",
        },
    ),
    **_table(
        "split",
        "warning",
        {
            "duplicate-content": "the same content twice in a split",
            "contradictory-labels": "the same content with different labels",
            "near-duplicate": "images that look the same, in one split",
            "near-duplicate-across-splits": "images that look the same, in two splits",
            "class-rare": "a class on fewer images than validate.min_images_per_class",
            "class-imbalance": "a class many times more frequent than another",
            "class-shares-differ": "class shares that differ much between splits",
            "linked-across-splits": "images that belong together, accepted in two splits: none "
            "moves",
            "split-changed": "an image that was accepted in another split than the data gives it",
        },
    ),
    **_table(
        "drift",
        "error",
        {
            "drift-classes": "classes appeared or vanished since the last accepted data",
            "drift-columns": "columns appeared, vanished or changed type since then",
        },
    ),
    **_table(
        "drift",
        "warning",
        {
            "drift-labels": "the shares of the classes have changed",
            "drift-background": "the share of images without objects has changed",
            "drift-brightness": "the images' brightness has changed",
            "drift-size": "the images' size has changed",
            "drift-aspect": "the images' aspect has changed",
            "drift-box-size": "the boxes' size has changed",
            "drift-box-place": "the boxes' place in the image has changed",
        },
    ),
}
