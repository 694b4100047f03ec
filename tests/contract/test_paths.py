from __future__ import annotations

import pytest

from components.contract.paths import PathEscape, resolve_inside


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("/etc/passwd", "absolute"),
        ("C:/a.jpg", "absolute"),
        ("../a.jpg", "'..'"),
        ("a/../../b.jpg", "'..'"),
        ("a/..", "'..'"),
        ("a\\b.jpg", "backslash"),
        ("a\0.jpg", "NUL"),
        ("\ud800.jpg", "Unicode"),
        ("out.jpg", "out of the data"),
        ("folder/a.jpg", "out of the data"),
        ("circle", "circle|followed"),
    ],
)
def test_refused(tmp_path, name, reason):
    root = tmp_path / "root"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(b"secret")
    root.mkdir()
    (root / "out.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "circle").symlink_to("circle2")
    (root / "circle2").symlink_to("circle")
    with pytest.raises(PathEscape, match=reason):
        resolve_inside(root, name)


@pytest.mark.parametrize(
    "name", ["a.jpg", "b/a.jpg", "b/a..jpg", "...jpg", "ü 🙂\n.jpg", "link.jpg"]
)
def test_accepted(tmp_path, name):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").write_bytes(b"")
    (tmp_path / "real" / "link.jpg").symlink_to("a.jpg")
    (tmp_path / "root").symlink_to("real")  # the root itself may be a link
    assert resolve_inside(tmp_path / "root", name) == tmp_path / "root" / name
