"""The files of a resume folder: the last two checkpoints of one training, and its best weights.

    .resume/<key>/
      00000007-<sha256>.ckpt            a checkpoint; names the files of its best weights
      00000008-<sha256>.ckpt
      best-<sha256>.safetensors         written once, when they have changed

Each file appears whole and on the disk, and is read only if its content is what its name tells of.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
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

    Attributes:
        taken: name of the file that `latest` has read; empty if there was none.
    """

    def __init__(self, folder: Path, owner: bool = True):
        self.folder = Path(folder)
        self.owner = owner
        self.taken = ""
        self._best_names: dict[Path, list[str]] = {}  # by checkpoint, as far as known
        self._on_disk: list[tuple[Weights, str]] = []  # with the name of its file

    def latest(self) -> tuple[dict[str, Any], list[Weights]] | None:
        """The newest checkpoint that is whole, and the best weights at that time; None without one.

        One that is damaged is set aside, with a message, and the one before is taken.
        """
        if self.owner:
            remove_drafts(self.folder)
        for path in reversed(self._files()):
            found = self._read(path)
            if found is not None:
                self.taken = path.name
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

    def write(self, state: dict[str, Any], best: Sequence[Weights] = ()) -> None:
        """Add a checkpoint, and remove what is older than the one before it.

        Args:
            state: tensors, numbers, strings, lists, dicts.
            best: the best weights so far. Those are written that are other objects than the last
                time's.

        Raises:
            WriteError: the disk is full, or refuses for another reason; what was there stays.
        """
        self._on_disk = [(weights, self._name_of(weights)) for weights in best]
        names = [name for _, name in self._on_disk]
        files = self._files()
        number = int(files[-1].name.split("-")[0]) + 1 if files else 1
        path = write_checked(
            self.folder,
            f"{number:08d}-",
            ".ckpt",
            lambda sink: torch.save({**state, "best_files": names}, sink),
        )
        self._best_names[path] = names
        self._remove_old()

    def _name_of(self, weights: Weights) -> str:
        """The file that holds them; written if there is none yet."""
        for known, name in self._on_disk:
            if known is weights:
                return name
        content = save(weights)
        return write_checked(self.folder, *_BEST, lambda sink: sink.write(content)).name

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.ckpt"))

    def _read(self, path: Path) -> tuple[dict[str, Any], list[Weights]] | None:
        if not is_whole(path, path.name.split("-")[0] + "-", ".ckpt"):
            return None
        state = torch.load(path, map_location="cpu", weights_only=True)
        names = state.pop("best_files")
        self._best_names[path] = names
        if not all(is_whole(self.folder / name, *_BEST) for name in names):
            return None
        self._on_disk = [(load_file(self.folder / name), name) for name in names]
        return state, [weights for weights, _ in self._on_disk]

    def _remove_old(self) -> None:
        files = self._files()
        for path in files[:-_KEPT]:
            path.unlink()
            self._best_names.pop(path, None)
        kept = files[-_KEPT:]
        if all(path in self._best_names for path in kept):  # else one may need any of them
            needed = {name for path in kept for name in self._best_names[path]}
            for file in self.folder.glob("*".join(_BEST)):
                if file.name not in needed:
                    file.unlink()
