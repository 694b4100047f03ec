"""CSV tables as they are met in the wild, and as nobody should write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.contract.csv_reader import find_files, read_csv
from components.contract.reading import MAX_TABLE_BYTES, Reading
from components.errors import DataError

HEADER = "path,label,x,y,width,height\n"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def read(root: Path, text: str | bytes, task="classification", classes=None, multi_label=False):
    raw = text.encode() if isinstance(text, str) else text
    names = ("a.jpg", "b.jpg", "images/c.jpg")
    touch(root, *(name for name in names if Path(name).name.encode() in raw))
    (root / "labels.csv").write_bytes(raw)
    return read_csv(root, task, classes, multi_label)


def labels(reading: Reading) -> list[tuple[str, str]]:
    return [(reading.images[item.image].path, item.label) for item in reading.objects]


def checks(reading: Reading) -> list[str]:
    return [finding.check for finding in reading.findings]


def test_images_that_no_row_names_are_reported(tmp_path):
    touch(tmp_path, "more/d.jpg", "more/e.jpg", "f.png", "notes.txt", ".g.jpg")
    reading = read(tmp_path, "path,label\na.jpg,cat\nb.jpg\n")  # b.jpg is named, if badly
    assert [(item.check, item.where, item.value) for item in reading.findings[1:]] == [
        ("image-without-label", ".", "1"),
        ("image-without-label", "more", "2"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "path,label\nb.jpg,dog\na.jpg,cat\n",
        "\ufeffpath,label\r\nb.jpg,dog\r\na.jpg,cat\r\n",  # as Excel saves it
        "Image,Class\nb.jpg,dog\n\na.jpg,cat",
        "label;file name\ndog;b.jpg\ncat;./a.jpg\n",
        "file_name\tcategory\nb.jpg\tdog\na.jpg\tcat\n",
        ",image_path,label\n0,b.jpg,dog\n1,a.jpg,cat\n",  # a column without a name
    ],
)
def test_a_label_an_image(tmp_path, text):
    reading = read(tmp_path, text)
    assert reading.findings == []
    assert reading.classes == ("cat", "dog")
    assert labels(reading) == [("a.jpg", "cat"), ("b.jpg", "dog")]
    assert [image.columns for image in reading.images] == [None, None]


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("path,labels\na.jpg,cat|dog\nb.jpg,\nc.jpg,dog\n", None),
        ("path,labels\na.jpg,cat; dog\nb.jpg,\nc.jpg,dog\n", None),
        ("path,label\na.jpg,cat|dog\nb.jpg,\nc.jpg,dog\n", None),
        ("path,cat,dog\na.jpg,1,1\nb.jpg,0,0\nc.jpg,0,1.0\n", None),
        ("path,age,dog,cat\na.jpg,7,1,1\nb.jpg,8,0,0\nc.jpg,9,1,0\n", ("cat", "dog")),
    ],
)
def test_several_labels_an_image(tmp_path, text, classes):
    reading = read(tmp_path, text, classes=classes, multi_label=True)
    assert reading.findings == []
    assert reading.multi_label
    assert reading.classes == ("cat", "dog")
    assert sorted(labels(reading)) == [
        ("a.jpg", "cat"),
        ("a.jpg", "dog"),
        ("images/c.jpg", "dog"),
    ]
    assert len(reading.images) == 3


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "a.jpg,cat,1,2,3,4\nb.jpg,,,,,\na.jpg,dog,5,6.5,7,8\n",
        "filename,width,height,class,xmin,ymin,xmax,ymax\n"
        "a.jpg,40,30,cat,1,2,4,6\nb.jpg,40,30,,,,,\na.jpg,40,30,dog,5,6.5,12,14.5\n",
    ],
)
def test_boxes(tmp_path, text):
    reading = read(tmp_path, text, "detection")
    assert reading.findings == []
    assert [image.path for image in reading.images] == ["a.jpg", "b.jpg"]
    assert reading.images[0].size == ((40.0, 30.0) if "xmin" in text else None)
    assert [(item.image, item.label, item.box) for item in reading.objects] == [
        (0, "cat", (1.0, 2.0, 3.0, 4.0)),
        (0, "dog", (5.0, 6.5, 7.0, 8.0)),
    ]


def test_area_and_crowd(tmp_path):
    text = "path,label,x,y,width,height,area,is_crowd\na.jpg,cat,1,2,3,4,9.5,1\n"
    (item,) = read(tmp_path, text, "detection").objects
    assert (item.area, item.is_crowd) == (9.5, True)


def test_split_group_and_columns_of_the_user(tmp_path):
    text = (
        "path,label,split,group,age,weight,code,night,width,note\n"
        "a.jpg,cat,train,p1,3,1,007,true,9,=cmd|' /C calc'!A0\n"
        "b.jpg,dog,valid,,,2.5,1,FALSE,8,\n"
        "c.jpg,dog,,p1,4,,2,,7,0\n"
    )
    reading = read(tmp_path, text)
    assert reading.findings == []
    assert [image.split for image in reading.images] == ["train", "val", None]
    assert [image.group for image in reading.images] == ["p1", None, "p1"]
    assert reading.splits == {"train", "val"}
    first, second, _ = (image.columns for image in reading.images)
    assert first == {
        "age": 3,
        "weight": 1.0,
        "code": "007",
        "night": True,
        "csv_width": 9,
        "note": "=cmd|' /C calc'!A0",
    }
    assert second is not None
    assert (second["age"], second["night"], second["note"]) == (None, False, None)
    assert isinstance(first["weight"], float)


@pytest.mark.parametrize(
    ("file", "image", "row", "split"),
    [
        ("labels.csv", "images/1.jpg", "1.jpg", None),
        ("labels.csv", "deep/er/1.jpg", "deep/er/1.jpg", None),
        ("annotations.csv", "1.jpg", "images/../1.jpg", "escape"),
        ("train.csv", "train/1.jpg", "1.jpg", "train"),
        ("val2017.csv", "images/val2017/1.jpg", "1.jpg", "val"),
        ("test_labels.csv", "images/test/1.jpg", "1.jpg", "test"),
        ("annotations/valid.csv", "images/1.jpg", "1.jpg", "val"),
        ("valid/_annotations.csv", "valid/1.jpg", "1.jpg", "val"),
    ],
)
def test_where_files_stand(tmp_path, file, image, row, split):
    touch(tmp_path, image, file)
    (tmp_path / file).write_text(f"path,label\n{row},cat\n")
    assert find_files(tmp_path) == [tmp_path / file]
    reading = read_csv(tmp_path, "classification")
    if split == "escape":
        assert checks(reading) == ["path-escape"]
        return
    assert reading.findings == []
    assert [(item.path, item.split) for item in reading.images] == [(image, split)]


@pytest.mark.parametrize(
    ("names", "header"),
    [
        (["prices.csv"], "path,label\n"),
        (["labels.csv"], "id,name\n"),
        (["labels.csv"], "path\n"),
        (["labels.csv"], ""),
        ([".labels.csv", "train_log.csv"], "path,label\n"),
    ],
)
def test_files_that_are_something_else(tmp_path, names, header):
    for name in names:
        (tmp_path / name).write_text(header)
    assert find_files(tmp_path) == []


def test_splits_in_several_files(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    (tmp_path / "train.csv").write_text("path,label,age\n1.jpg,cat,3\n2.jpg,dog,\n")
    (tmp_path / "val.csv").write_text("path,label\n3.jpg,cat\n1.jpg,cat\n")
    reading = read_csv(tmp_path, "classification")
    assert [image.split for image in reading.images] == ["train", "train", "val"]
    assert [image.columns for image in reading.images] == [{"age": 3}, {"age": None}, {"age": None}]
    (finding,) = reading.findings
    assert (finding.check, finding.image) == ("duplicate-image", "1.jpg")
    assert "train.csv: line 2" in finding.message


@pytest.mark.parametrize(
    ("task", "text", "check", "image", "told"),
    [
        ("classification", "path,name\na.jpg,cat\n", "column-missing", "", "label"),
        ("classification", "name,label\na.jpg,cat\n", "column-missing", "", "path"),
        ("detection", "path,label,x,y\na.jpg,cat,1,2\n", "column-missing", "", "width"),
        ("classification", "path,labels\na.jpg,a|b\n", "column-missing", "", "multi_label: true"),
        ("classification", "", "annotations-unreadable", "", "name the columns"),
        ("classification", "path,label,label\n", "annotations-unreadable", "", "twice"),
        ("classification", b"path,label\na.jpg,caf\xe9\n", "annotations-unreadable", "", "0xE9"),
        ("classification", b"path,label\na.jpg,c\0t\n", "annotations-unreadable", "", "line 2"),
        (
            "classification",
            "path,label\n".encode("utf-16"),
            "annotations-unreadable",
            "",
            "in UTF-16",
        ),
        ("classification", "path,label\na.jpg,\n", "image-without-label", "a.jpg", "not used"),
        ("classification", "path,label\na.jpg\n", "label-row-broken", "a.jpg", "number of cells"),
        ("classification", "path,label\na.jpg,b,c\n", "label-row-broken", "a.jpg", "is 3"),
        ("classification", 'path,label\na.jpg,"b', "label-row-broken", "", "not a row"),
        ("classification", "path,label\na.jpg," + "b" * 200_000, "label-row-broken", "", "limit"),
        ("classification", "path,label\na.jpg, cat\n", "class-name", "a.jpg", "spaces"),
        ("classification", "path,label\nz.jpg,cat\n", "file-missing", "z.jpg", "a file in ./"),
        ("classification", "path,label\nimages,cat\n", "file-missing", "images", "no such image"),
        ("classification", "path,label\n/etc/x,cat\n", "path-escape", "/etc/x", "absolute"),
        ("classification", "path,label\n../a.jpg,cat\n", "path-escape", "../a.jpg", ".."),
        ("classification", "path,label\n,cat\n", "image-row-broken", "", "no file"),
        (
            "classification",
            "path,label\na.jpg,c\n./a.jpg,c\n",
            "duplicate-image",
            "a.jpg",
            "second",
        ),
        (
            "classification",
            "path,label,split\nc.jpg,c,foo\n",
            "label-row-broken",
            "images/c.jpg",
            "split",
        ),
        ("detection", HEADER + "a.jpg,cat,1,2,3,\n", "box-broken", "a.jpg", "four numbers"),
        ("detection", HEADER + "a.jpg,cat,1,2,3,1_0\n", "box-broken", "a.jpg", "1_0"),
        ("detection", HEADER + "a.jpg,,1,2,3,4\n", "class-name", "a.jpg", "no label"),
        (
            "detection",
            "path,label,x,y,width,height,age\na.jpg,cat,1,2,3,4,5\na.jpg,cat,5,2,3,4,6\n",
            "label-row-broken",
            "a.jpg",
            "age",
        ),
        (
            "detection",
            "path,label,x,y,width,height,img_width,img_height\na.jpg,cat,1,2,3,4,x,5\n",
            "image-row-broken",
            "a.jpg",
            "pixels",
        ),
    ],
)
def test_what_is_wrong_is_told(tmp_path, task, text, check, image, told):
    findings = read(tmp_path, text, task).findings
    found = {item.check: item for item in findings}
    assert check in found, findings
    assert found[check].image == image
    assert told in str(found[check])


@pytest.mark.parametrize(
    ("text", "check", "told"),
    [
        ("path,labels\na.jpg,cat||dog\n", "label-row-broken", "separated"),
        ("path,labels\na.jpg,cat|cat\n", "label-row-broken", "once"),
        ("path,cat\na.jpg,1\nb.jpg,2\nc.jpg,0\n", "label-row-broken", "0 or 1"),
        ("path,age\na.jpg,31\n", "column-missing", "labels"),
    ],
)
def test_what_is_wrong_with_several_labels(tmp_path, text, check, told):
    findings = read(tmp_path, text, multi_label=True).findings
    assert any(item.check == check and told in str(item) for item in findings)


def test_classes_from_the_parameters(tmp_path):
    reading = read(tmp_path, "path,label\na.jpg,dgo\nb.jpg,dog\n", classes=("dog", "cat"))
    assert reading.classes == ("dog", "cat")
    assert [(item.check, item.image) for item in reading.findings] == [
        ("class-unknown", "a.jpg"),
        ("class-missing", ""),
    ]
    assert labels(reading) == [("b.jpg", "dog")]


def test_a_class_is_there_even_if_its_image_is_not(tmp_path):
    reading = read(tmp_path, "path,label\na.jpg,cat\nz.jpg,dog\n", classes=("cat", "dog"))
    assert checks(reading) == ["file-missing"]


def test_boxes_are_not_for_classification(tmp_path):
    with pytest.raises(DataError, match=r"labels\.csv has boxes"):
        read(tmp_path, HEADER)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="no CSV file"):
        read_csv(tmp_path, "detection")


def test_images_that_no_row_names(tmp_path):
    touch(tmp_path, "b.jpg", "more/c.png", "more/d.png", "notes.txt", ".e.jpg")
    reading = read(tmp_path, "path,label\na.jpg,cat\n")
    assert [(item.check, item.where, item.value, item.image) for item in reading.findings] == [
        ("image-without-label", ".", "1", "b.jpg"),
        ("image-without-label", "more", "2", ""),
    ]


def test_an_image_without_a_label_is_not_used(tmp_path):
    reading = read(tmp_path, "path,label\na.jpg,\nb.jpg, \nc.jpg,cat\n")
    assert [(item.check, item.where, item.image) for item in reading.findings] == [
        ("image-without-label", "labels.csv: line 2", "a.jpg"),
        ("image-without-label", "labels.csv: line 3", "b.jpg"),
    ]
    assert [image.path for image in reading.images] == ["images/c.jpg"]


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\n")
    with (tmp_path / "labels.csv").open("r+b") as file:
        file.truncate(MAX_TABLE_BYTES + 1)  # sparse: it takes no room
    (finding,) = read_csv(tmp_path, "classification").findings
    assert finding.check == "annotations-unreadable"
    assert "at most 1024 MiB" in finding.message


ROWS = [
    "a.jpg,cat,1,2,3,4\n",
    "b.jpg,dog,5,6.5,7,8\n",
    "./a.jpg,cat,9,9,9,9\n",
    "c.jpg,,,,,\n",
    "b.jpg,dog,x,6,7,8\n",
    "z.jpg,dog,1,6,7,8\n",
]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False], ids=["newline at the end", "none"])
def test_quotes_change_nothing(tmp_path, newline, last):
    """A table without quotes is cut by another parser than one with them."""
    plain = (HEADER + "".join(ROWS)).replace("\n", newline)
    plain = plain if last else plain.removesuffix(newline)
    quoted = plain.replace("cat", '"cat"', 1)
    one, two = (read(tmp_path, text, "detection") for text in (plain, quoted))
    assert (one.images, one.objects) == (two.images, two.objects)
    assert one.findings == two.findings
    assert sorted(checks(one)) == ["box-broken", "file-missing"]


def test_empty_lines_do_not_shift_the_lines_that_are_told(tmp_path):
    reading = read(tmp_path, "path,label\n\na.jpg,cat\n\n\nz.jpg,cat\n")
    assert [item.where for item in reading.findings] == ["labels.csv: line 6"]


def test_many_findings_are_counted(tmp_path):
    findings = read(tmp_path, "path,label\n" + "x.jpg,cat\n" * 1500).findings
    assert [item.image for item in findings if item.check == "file-missing"] == ["x.jpg"] * 1001
    assert any("500 more" in item.message for item in findings)


def test_every_image_with_an_error_is_known(tmp_path):
    text = "path,label\n" + "".join(f"{index}/x.jpg,cat\n" for index in range(1500))
    assert len({item.image for item in read(tmp_path, text).findings} - {""}) == 1500


def test_links_do_not_lead_out(tmp_path):
    root = tmp_path / "root"
    touch(tmp_path, "secret/1.jpg", "root/real/2.jpg")
    (root / "out.jpg").symlink_to(tmp_path / "secret/1.jpg")
    (root / "folder").symlink_to(tmp_path / "secret")
    (root / "circle").symlink_to("circle")
    (root / "inside").symlink_to("real")
    text = "path,label\nout.jpg,a\nfolder/1.jpg,a\ncircle/1.jpg,a\ninside/2.jpg,a\n"
    reading = read(root, text)
    assert checks(reading) == ["path-escape"] * 3
    assert [image.path for image in reading.images] == ["inside/2.jpg"]


def test_a_file_that_leads_out_is_not_read(tmp_path):
    root = tmp_path / "root"
    touch(tmp_path, "secret.csv", "root/a.jpg")
    (tmp_path / "secret.csv").write_text("path,label\na.jpg,cat\n")
    (root / "labels.csv").symlink_to(tmp_path / "secret.csv")
    assert find_files(root) == []
    reading = read_csv(root, "classification")
    assert "path-escape" in checks(reading)
    assert reading.images == []


CELLS = st.one_of(
    st.sampled_from(
        [
            *("a.jpg", "images/c.jpg", "../a", "cat", "cat|dog", "", "1", "0", "0.5", "nan"),
            *("1e999", "=1+1", '"', "'", "\r", "\n", ",", ";", "\t", "\ufeff", "9" * 400, "é"),
        ]
    ),
    st.text(max_size=8),
)
HEADERS = st.sampled_from(
    [HEADER, "path,label\n", "path,labels,split,group,age\n", "image,cat,dog,age\n", ""]
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    header=HEADERS,
    rows=st.lists(st.lists(CELLS, max_size=7), max_size=6),
    task=st.sampled_from(["classification", "detection"]),
    multi_label=st.booleans(),
)
def test_no_text_crashes_the_reader(tmp_path, header, rows, task, multi_label):
    text = header + "\n".join(",".join(row) for row in rows)
    check_any(tmp_path, text.encode("utf-8", "surrogatepass"), task, multi_label)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(raw=st.binary(max_size=60), header=HEADERS)
def test_no_bytes_crash_the_reader(tmp_path, raw, header):
    check_any(tmp_path, header.encode() + raw, "classification", False)


def check_any(root: Path, raw: bytes, task, multi_label) -> None:
    """Whatever the file holds: a reading whose parts fit each other, or a clear error."""
    try:
        reading = read(root, raw, task, multi_label=multi_label)
    except DataError as error:
        assert "has boxes" in str(error)
        return
    assert [item.path for item in reading.images] == sorted({item.path for item in reading.images})
    assert all((root / item.path).is_file() for item in reading.images)
    assert {item.label for item in reading.objects} <= set(reading.classes)
    assert all(0 <= item.image < len(reading.images) for item in reading.objects)
    for finding in reading.findings:
        str(finding).encode()
