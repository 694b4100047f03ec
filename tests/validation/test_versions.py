"""A folder of data is replaced whole or not at all, wherever the process is killed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.validation import versions


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def folder(path: Path, text: str) -> None:
    path.mkdir()
    (path / "a.txt").write_text(text)


def contents(data: Path) -> dict[str, str]:
    return {path.name: (path / "a.txt").read_text() for path in data.parent.iterdir()}


@pytest.mark.parametrize("has_previous", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_replacement_killed_at_any_step_is_finished_or_undone(
    tmp_path, monkeypatch, at_once, has_previous
):
    """Also if what clears up is killed in turn; then the version before is what it was."""
    if not at_once:
        monkeypatch.setattr(versions, "_exchange_at_once", lambda *args: False)
    before = {"raw": "old", "raw.previous": "older"} if has_previous else {"raw": "old"}
    after = {"raw": "new", "raw.previous": "old"}
    left = 0

    def killing(step):
        def counted(*args):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return step(*args)

        return counted

    for module, name in ((Path, "rename"), (shutil, "rmtree"), (versions, "_exchange_at_once")):
        monkeypatch.setattr(module, name, killing(getattr(module, name)))
    seen = []
    for first in range(12):
        for second in range(8):
            data = tmp_path / f"{first}-{second}" / "raw"
            data.parent.mkdir()
            for name, text in before.items():
                folder(data.with_name(name), text)
            folder(versions.draft_path(data), "new")
            for steps, work in ((first, versions.replace), (second, versions.recover)):
                left = steps
                try:
                    work(data)
                except Killed:
                    assert not at_once or data.exists()
            left = 100
            versions.recover(data)
            seen.append(contents(data))
            assert seen[-1] in (before, after)
    assert seen[0] == before and seen[-1] == after
