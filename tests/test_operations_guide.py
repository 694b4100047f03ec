"""The units that docs/operations.md shows can be copied as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"^```ini\n(.*?)^```$", GUIDE, re.S | re.M)
UNITS = {
    Path(block.partition("\n")[0].removeprefix("# /etc/systemd/system/")).name: block
    for block in BLOCKS
}


@pytest.mark.parametrize("name", UNITS)
def test_each_block_is_one_file(name: str) -> None:
    text = UNITS[name]
    assert re.match(r"# /etc/systemd/system/timmflow-[a-z]+\.(service|timer)\n\[Unit\]", text)
    assert text.count("/etc/systemd") == 1
    kind = Path(name).suffix[1:].title()
    sections = re.findall(r"^\[(.+)\]$", text, re.M)
    assert sections in (["Unit", kind], ["Unit", kind, "Install"])
    # What a server with a password needs has a place.
    assert kind == "Timer" or "\nEnvironmentFile=-/etc/timmflow/" in text


def test_what_is_enabled_is_there_and_can_be() -> None:
    [line] = re.findall(r"^sudo systemctl enable --now (.+)$", GUIDE, re.M)
    assert set(line.split()) == {name for name, text in UNITS.items() if "[Install]" in text}
    assert all(re.sub("timer$", "service", name) in UNITS for name in line.split())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_them(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("python", "prefect"):
        (programs / name).symlink_to(sys.executable)
    for name, text in UNITS.items():
        there = text.replace("/srv/timmflow/repository/.venv/bin", str(programs))
        (tmp_path / name).write_text(there)
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True)
    about = [line for line in done.stderr.splitlines() if "timmflow" in line]
    assert (done.returncode, about) == (0, []), done.stderr
