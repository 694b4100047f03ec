"""The files of a resume folder: the last two checkpoints of one training, and its best weights.

    .resume/<key>/
      00000007-<sha256>.ckpt            a checkpoint; names its best weights' file
      00000008-<sha256>.ckpt
      best-<sha256>.safetensors         written once, when they have changed

Each file appears whole and on the disk, and is read only if its content is what its name tells of.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from components.files import is_whole, remove_drafts, write_checked

_BEST = ("best-", ".safetensors")
_KEPT = 2
Weights = dict[str, Tensor]


class Checkpoints:
    """Writes and reads the checkpoints of one training.

    Args:
        folder: theirs alone; made when the first is written.
        owner: whether this process may change what is there. Of those that train together the first
            is; the others only read, while it is at the same place.
    """

    def __init__(self, folder: Path, owner: bool = True):
        self.folder = Path(folder)
        self.owner = owner
        self._best_name: dict[Path, str] = {}  # by checkpoint, as far as known
        self._best: tuple[Weights | None, str] = (None, "")  # what is on the disk, and its name

    def latest(self) -> tuple[dict[str, Any], Weights | None] | None:
        """The newest checkpoint that is whole, and the best weights at that time; None without one.

        One that is damaged is set aside, with a message, and the one before is taken.
        """
        if self.owner:
            remove_drafts(self.folder)
        for path in reversed(self._files()):
            found = self._read(path)
            if found is not None:
                return found
            if not self.owner:
                continue
            path.rename(path.with_name(f"{path.name}.damaged"))
            print(  # noqa: T201 - there is something to look at: a disk that forgets
                f"{path}: damaged, set aside as {path.name}.damaged; training goes on from "
                f"{'the checkpoint before' if self._files() else 'the start'}",
                file=sys.stderr,
            )
        return None

    def write(self, state: dict[str, Any], best: Weights | None) -> None:
        """Add a checkpoint, and remove what is older than the one before it.

        Args:
            state: tensors, numbers, strings, lists, dicts.
            best: the best weights so far. They are written if they are another object than the last
                time.

        Raises:
            WriteError: the disk is full, or refuses for another reason; what was there stays.
        """
        if best is not None and best is not self._best[0]:
            content = save(best)
            file = write_checked(self.folder, *_BEST, lambda sink: sink.write(content))
            self._best = (best, file.name)
        name = self._best[1] if best is not None else ""
        files = self._files()
        number = int(files[-1].name.split("-")[0]) + 1 if files else 1
        path = write_checked(
            self.folder,
            f"{number:08d}-",
            ".ckpt",
            lambda sink: torch.save({**state, "best_file": name}, sink),
        )
        self._best_name[path] = name
        self._remove_old()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.ckpt"))

    def _read(self, path: Path) -> tuple[dict[str, Any], Weights | None] | None:
        if not is_whole(path, path.name.split("-")[0] + "-", ".ckpt"):
            return None
        state = torch.load(path, map_location="cpu", weights_only=True)
        name = state.pop("best_file")
        self._best_name[path] = name
        if not name:
            return state, None
        if not is_whole(self.folder / name, *_BEST):
            return None
        self._best = (load_file(self.folder / name), name)
        return state, self._best[0]

    def _remove_old(self) -> None:
        files = self._files()
        for path in files[:-_KEPT]:
            path.unlink()
            self._best_name.pop(path, None)
        kept = files[-_KEPT:]
        if all(path in self._best_name for path in kept):  # else one may need any of them
            needed = {self._best_name[path] for path in kept}
            for file in self.folder.glob("*".join(_BEST)):
                if file.name not in needed:
                    file.unlink()
