"""CSV tables: a label an image, several labels an image, or a box a row.

    path,label                      cats/1.jpg,cat
    path,labels                     1.jpg,cat|dog                 (separated by | or ;)
    path,cat,dog                    1.jpg,1,0                     (a column of 0 and 1 a class)
    path,label,x,y,width,height     1.jpg,cat,10,20,30,40         (or xmin,ymin,xmax,ymax), pixels

A row of a box table with an empty label and an empty box is an image without objects. `split` and
`group` may follow, the image's size, and any columns of the user, which go into the table of
images. Where the files may stand, the first kind counts of which a header fits:

    labels.csv          annotations.csv            (also in annotations/)
    train.csv, val.csv, test.csv                   train_labels.csv, annotations-val.csv
    train/labels.csv    train/_annotations.csv     train/_classes.csv

Images are looked up as for COCO: in the folders of the split, `images/`, the data root and beside
the file. Files of any content are read without a crash: what does not fit becomes a finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from components.contract.class_names import settle
from components.contract.csv_cells import typed
from components.contract.csv_files import find_files, named_files, task_of
from components.contract.csv_header import free_name
from components.contract.csv_objects import Labels
from components.contract.csv_rows import CsvFile
from components.contract.data_files import DataFiles
from components.contract.reading import Reading
from components.contract.tables import Task
from components.errors import DataError

__all__ = ["find_files", "read_csv", "task_of"]


def read_csv(
    root: Path, task: Task, classes: Sequence[str] | None = None, multi_label: bool = False
) -> Reading:
    """Read all CSV files of a data root.

    Classes are the labels in the order of their text, or for columns of 0 and 1 in the columns'
    order, unless `classes` gives them. Columns of 0 and 1 are classes if `classes` names them;
    without `classes` all are in which most cells are 0 or 1.

    Args:
        root: the data root, an existing folder.
        task: classification reads labels, detection boxes.
        classes: class names in the model's order, or None.
        multi_label: classification: an image has any number of labels instead of one.

    Raises:
        DataError: there is no CSV file, or it has boxes and the task is classification.
    """
    root = Path(root)
    files = find_files(root) or next(iter(named_files(root)), [])
    if not files:
        raise DataError(f"{root}: no CSV file, such as labels.csv or train.csv and val.csv")
    reading = Reading(root, "csv", task, multi_label=multi_label)
    lookup = DataFiles(root, reading.findings)
    tables = [CsvFile(reading, file, lookup, multi_label) for file in files]
    if task == "classification" and any(table.ok and table.columns.box for table in tables):
        raise DataError(
            f"base.data = {root}: {files[0].name} has boxes, and boxes are read for detection "
            "only; for classification give a column of labels without boxes, or set base.task to "
            "detection"
        )
    found = _class_columns(tables, classes)
    named: dict[str, str] = {}  # path of an image: where it was named first
    labels = Labels(classes, found)
    all_read = True
    for table in tables:
        if table.split:
            reading.splits.add(table.split)
        if table.ok and table.check_columns(found, classes):
            table.read_rows(named, labels)
        else:
            all_read = False
        reading.findings += table.faults.all()
    _add_columns(reading, tables)
    names = list(labels.found) if found else sorted(labels.found)
    reading.classes, faults = settle(names, classes, tables[0].name)
    if names or all_read:  # else nothing is known of the classes
        reading.findings += faults
    if named and all_read:
        # What a row with a fault names is named all the same.
        mentioned = {item.image for item in reading.findings}
        reading.findings += lookup.unlisted(named.keys() | mentioned)
    reading.sort()
    return reading


def _class_columns(tables: Sequence[CsvFile], classes: Sequence[str] | None) -> list[str]:
    """Names of the columns that are classes, over all files that have their labels so."""
    found: dict[str, None] = {}
    for table in tables:
        if table.wants_class_columns:
            likely = table.likely_classes() if classes is None else classes
            found.update(dict.fromkeys(name for name in likely if name in table.others))
    return list(found)


def _add_columns(reading: Reading, tables: Sequence[CsvFile]) -> None:
    """Give each image the user's columns, each of one type over all files; sets go empty."""
    tables = [table for table in tables if len(table.image_rows)]
    names = list(dict.fromkeys(name for table in tables for name in table.others))
    if not names:
        return
    keys = [free_name(name) for name in names]
    for image in reading.images:
        image.columns = dict.fromkeys(keys)
    for name, key in zip(names, keys, strict=True):
        texts = [
            (table, table.cells.columns[table.others[name]].pick(table.image_rows))
            for table in tables
            if name in table.others
        ]
        values = typed(text for _, found in texts for text in found)
        for table, found in texts:
            for image, text in zip(reading.images[table.start :], found, strict=False):
                image.columns[key] = values[text]  # type: ignore[index]
