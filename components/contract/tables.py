"""The canonical tables: what every reader produces and every later stage starts from.

Their columns are described in `docs/architecture.md` and checked here with pandera.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from components.contract.findings import shown
from components.errors import DataError
from components.files import atomic_path, read_json

if TYPE_CHECKING:
    import pandera.pandas as pa

Task = Literal["classification", "detection"]
SPLITS = ("train", "val", "test")

Rows = list[dict[str, Any]] | dict[str, Any]

_BOX_COLUMNS = ("x", "y", "width", "height", "area")


@dataclass(frozen=True)
class Dataset:
    """A validated data set.

    Args:
        images: one row an image; `image_id` counts from 0.
        objects: one row a label (classification) or a box (detection); `object_id` counts from 0.
        classes: class names; a class id is its position.
        task: `classification` or `detection`.
        format: what it was read from: `folder`, `csv`, `coco`, `voc`, `yolo`.
        multi_label: classification: an image has any number of labels instead of one.
    """

    images: pd.DataFrame
    objects: pd.DataFrame
    classes: tuple[str, ...]
    task: Task
    format: str
    multi_label: bool = False

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the content of the tables and the class list, in hexadecimal.

        It does not depend on how the tables are stored, nor on the order of their columns.
        """
        about = [self.task, self.multi_label, list(self.classes)]
        digest = hashlib.sha256(json.dumps(about).encode())
        for table in (self.images, self.objects):
            text = table[sorted(table.columns)].to_csv(
                index=False, na_rep="\\N", lineterminator="\n"
            )
            digest.update(text.encode())
        return digest.hexdigest()

    def check(self) -> None:
        """Check the tables against their schemas, and against each other.

        Raises:
            DataError: names the table, the column, the rule and the first values that break it.
        """
        _check_table("images", self.images, images_schema())
        _check_table("objects", self.objects, objects_schema(self.task))
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise DataError(f"classes: {list(self.classes)} is empty or names a class twice")
        strangers = set(self.objects["label"]) - set(self.classes)
        if strangers:
            raise DataError(f"objects.label: {sorted(strangers)[:5]} are not among the classes")
        if not self.objects["image_id"].isin(self.images["image_id"]).all():
            raise DataError("objects.image_id: some are not among the images")

    def save(self, folder: Path) -> None:
        """Write the two tables as parquet and `dataset.json`; the same data gives the same bytes.

        The folder appears whole or not at all.

        Raises:
            DataError: the tables break their schemas.
        """
        self.check()
        about = {
            "task": self.task,
            "multi_label": self.multi_label,
            "format": self.format,
            "classes": list(self.classes),
            "fingerprint": self.fingerprint,
        }
        with atomic_path(folder) as draft:
            draft.mkdir()
            _write_parquet(draft / "images.parquet", self.images)
            _write_parquet(draft / "objects.parquet", self.objects)
            text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
            (draft / "dataset.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Dataset:
        """Read what `save` wrote, and check it.

        Raises:
            DataError: a file is missing or broken, or the tables break their schemas.
        """
        folder = Path(folder)
        about = read_json(folder / "dataset.json")
        try:
            dataset = cls(
                images=_read_parquet(folder / "images.parquet"),
                objects=_read_parquet(folder / "objects.parquet"),
                classes=tuple(about["classes"]),
                task=about["task"],
                format=about["format"],
                multi_label=about["multi_label"],
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"{folder / 'dataset.json'}: lacks {error}") from None
        dataset.check()
        return dataset


@cache
def images_schema() -> pa.DataFrameSchema:
    """What `images` must look like; further columns are the user's and may be there."""
    import pandera.pandas as pa

    return pa.DataFrameSchema(
        {
            "image_id": pa.Column("int64", [pa.Check.ge(0), _counts_up()], unique=True),
            "path": pa.Column(str, pa.Check.str_length(min_value=1), unique=True),
            "width": pa.Column("int64", pa.Check.ge(1)),
            "height": pa.Column("int64", pa.Check.ge(1)),
            "sha256": pa.Column(str, pa.Check.str_matches(r"^[0-9a-f]{64}$")),
            "phash": pa.Column(str, pa.Check.str_matches(r"^[0-9a-f]{16}$")),
            "group": pa.Column(str, nullable=True),
            "split": pa.Column(str, pa.Check.isin(SPLITS), nullable=True),
        }
    )


@cache
def objects_schema(task: Task) -> pa.DataFrameSchema:
    """What `objects` must look like for a task."""
    import pandera.pandas as pa

    columns = {
        "object_id": pa.Column("int64", [pa.Check.ge(0), _counts_up()], unique=True),
        "image_id": pa.Column("int64", pa.Check.ge(0)),
        "label": pa.Column(str, pa.Check.str_length(min_value=1)),
    }
    if task == "detection":
        finite = pa.Check.in_range(-1e9, 1e9)
        positive = pa.Check.in_range(0, 1e9, include_min=False)
        columns |= {
            "x": pa.Column("float64", finite),
            "y": pa.Column("float64", finite),
            "width": pa.Column("float64", positive),
            "height": pa.Column("float64", positive),
            "area": pa.Column("float64", pa.Check.in_range(0, 1e18)),
            "is_crowd": pa.Column("bool"),
            # Polygons or run lengths in COCO's form, as JSON text.
            "segmentation": pa.Column(str, nullable=True, required=False),
        }
    return pa.DataFrameSchema(columns, strict=True)


def _counts_up() -> pa.Check:
    import pandera.pandas as pa

    return pa.Check(
        lambda ids: bool((ids.to_numpy() == range(len(ids))).all()) if len(ids) else True,
        error="counts up from 0",
    )


def _check_table(name: str, table: pd.DataFrame, schema: pa.DataFrameSchema) -> None:
    from pandera.errors import SchemaErrors

    try:
        schema.validate(table, lazy=True)
    except SchemaErrors as failure:
        cases = failure.failure_cases
        lines = [
            f"  {name}.{case.column or case.failure_case}: {case.check} (is {case.failure_case!r})"
            for case in cases.head(5).itertuples()
        ]
        more = f"\n  and {len(cases) - 5} more" if len(cases) > 5 else ""
        raise DataError(
            f"table {name!r} breaks the data contract:\n" + "\n".join(lines) + more
        ) from None


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Parquet without pandas' metadata, which names versions, and with text columns always text."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    stored = arrow.Table.from_pandas(table, preserve_index=False)
    fields = [
        # A column of nulls only has no type of its own; large strings are a whim of pandas.
        field.with_type(arrow.string())
        if arrow.types.is_null(field.type) or arrow.types.is_large_string(field.type)
        else field
        for field in stored.schema
    ]
    stored = stored.cast(arrow.schema(fields)).replace_schema_metadata(None)
    parquet.write_table(stored, path, compression="zstd")


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        with path.open("rb") as file:
            return parquet.read_table(file).to_pandas()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, arrow.ArrowInvalid) as error:
        raise DataError(f"{path}: not a parquet file: {error}") from None


def build(
    images: list[dict[str, Any]], objects: Rows, task: Task
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables with the canonical columns and types from rows.

    Further columns of images are the user's: of truth values, whole numbers, numbers or text,
    whichever fits all their values; a column of which some have no value is of numbers or text. In
    `objects` the column `segmentation` is there if an object has one.

    Args:
        images: one dict an image, without `image_id`; `group`, `split` and the user's columns may
            lack.
        objects: without `object_id`, with `image_id` as position in `images`: one dict an object,
            or one list or array a column.
        task: decides the columns of `objects`.

    Returns:
        The tables `images` and `objects`, ids counting from 0.
    """
    texts = ["path", "sha256", "phash", "group", "split"]
    columns = ["path", "width", "height", "sha256", "phash", "group", "split"]
    image_table = pd.DataFrame(images, columns=columns)
    image_table.insert(0, "image_id", range(len(images)))
    image_table = image_table.astype(
        {"image_id": "int64", "width": "int64", "height": "int64"} | dict.fromkeys(texts, "str")
    )
    further = {key for row in images for key in row} - set(image_table.columns)
    users = {name: _user_column([row.get(name) for row in images]) for name in sorted(further)}
    image_table = pd.concat([image_table, pd.DataFrame(users)], axis=1) if users else image_table
    types = {"object_id": "int64", "image_id": "int64", "label": "str"}
    if task == "detection":
        types |= dict.fromkeys(_BOX_COLUMNS, "float64") | {"is_crowd": "bool"}
        masks = (
            objects.get("segmentation", [])
            if isinstance(objects, dict)
            else (row.get("segmentation") for row in objects)
        )
        if any(mask is not None for mask in masks):
            types["segmentation"] = "str"
    object_table = pd.DataFrame(objects, columns=[*types][1:])
    object_table.insert(0, "object_id", range(len(object_table)))
    return image_table, object_table.astype(types)


def _user_column(values: list[Any]) -> pd.Series:
    """A column of the type that fits all values; one that is read back as it was written."""
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return pd.Series(values, dtype="bool")
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values):
        return pd.Series(values, dtype="int64")
    if kinds & {int, float} and kinds <= {int, float, type(None)}:
        try:
            return pd.Series([math.nan if v is None else float(v) for v in values], dtype="float64")
        except OverflowError:
            pass  # a whole number beyond all floats stays text
    return pd.Series([None if value is None else _text(value) for value in values], dtype="str")


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else shown(value)
    return text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be stored
