"""A disk that is full or refuses: a clear error at every write of the train stage, no bad file."""

import errno
import hashlib
import io
import os
import resource
from pathlib import Path

import pytest
import torch
import yaml
from data_helpers import make_store

import components.training.fit
import tasks.train
from components.errors import WriteError
from components.files import atomic_path, write_text
from components.training.checkpoints import Checkpoints
from tasks.stage import main


class Disk:
    """Counts what goes to the disk, and refuses the `nth` of it."""

    def __init__(self, monkeypatch):
        self.count, self.nth, self.number = 0, None, errno.ENOSPC
        for name in ("fsync", "replace", "mkdir"):
            monkeypatch.setattr(os, name, self.refusing(getattr(os, name)))
        opened = io.open

        def open_(file, mode="r", *rest, **options):
            made = opened(file, mode, *rest, **options)
            return Refusing(made, self) if "w" in mode else made

        monkeypatch.setattr(io, "open", open_)

    def refusing(self, function):
        def call(path, *args, **options):
            if function.__name__ != "mkdir" or not Path(path).exists():
                self.touch()  # a folder that exists is not made
            return function(path, *args, **options)

        return call

    def touch(self):
        self.count += 1
        if self.count == self.nth:
            raise OSError(self.number, os.strerror(self.number))

    def refuse(self, nth, number=errno.ENOSPC):
        self.count, self.nth, self.number = 0, nth, number


class Refusing:
    """A file open for writing, which takes half of what it refuses."""

    def __init__(self, file, disk):
        self.file, self.disk = file, disk

    def write(self, data):
        try:
            self.disk.touch()
        except OSError:
            self.file.write(data[: len(data) // 2])
            raise
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def everything(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "no space is left on the disk; free some and run the same command again"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EACCES, "permission denied; the folder must be writable"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "the disk reports an input/output error"),
    ],
)
def test_the_error_names_the_file_and_the_remedy(tmp_path, disk, number, text):
    path = tmp_path / "curves.csv"
    write_text(path, "old")
    last = disk.count  # flushes the folder, once the file has its name
    assert last > 2
    for nth in range(1, last + 1):
        disk.refuse(nth, number)
        with pytest.raises(WriteError) as refused:
            write_text(path, "new, and longer")
        assert str(refused.value).startswith(f"{path}: cannot be written: {text}")
        left = b"old" if nth < last else b"new, and longer"
        assert everything(tmp_path) == {"curves.csv": left}
        assert not list(tmp_path.glob(".*"))


def test_an_interrupt_between_two_renames_keeps_the_old_folder(tmp_path, monkeypatch):
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "one").write_text("old")

    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_path(folder) as draft:
        draft.mkdir()
    assert everything(tmp_path) == {"tables/one": b"old"}


def test_what_the_block_cannot_read_is_not_explained_as_a_write(tmp_path):
    with pytest.raises(PermissionError), atomic_path(tmp_path / "inside" / "file"):
        raise PermissionError(errno.EACCES, "no", "/elsewhere/photo.jpg")


def weights(value):
    return {"w": torch.full((1000,), float(value))}


def test_a_refused_checkpoint_leaves_the_one_before(tmp_path, disk):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write({"step": 1}, [weights(1)])
    disk.refuse(None)
    checkpoints.write({"step": 2}, [weights(2)])
    num_writes = disk.count
    assert num_writes > 8
    for nth in range(1, num_writes + 1):
        disk.refuse(nth)
        with pytest.raises(WriteError, match="no space is left"):
            checkpoints.write({"step": 3}, [weights(3)])
        disk.refuse(None)
        # Refused after the rename it is there, and whole.
        state, best = Checkpoints(tmp_path).latest()
        assert state["step"] == 2 or nth == num_writes
        assert float(best[0]["w"][0]) == state["step"]
        assert not list(tmp_path.glob(".*")) + list(tmp_path.glob("*.damaged"))
    checkpoints.write({"step": 4}, [weights(4)])
    assert Checkpoints(tmp_path).latest()[0]["step"] == 4


@pytest.fixture
def limit():
    """Caps the size of files this process writes: a write beyond it is cut short."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 1, 3000, 6000])  # best weights 4 KB, checkpoint 13
def test_a_write_cut_short_by_the_kernel(tmp_path, limit, size):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write({"step": 1}, [weights(1)])
    limit(size)
    with pytest.raises(WriteError, match="larger than is allowed here"):
        checkpoints.write({"step": 2, "w": torch.zeros(3000)}, [weights(2)])
    limit(resource.RLIM_INFINITY)
    assert Checkpoints(tmp_path).latest()[0]["step"] == 1


# The stage ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A working directory of `tasks.train`, and what its training gave, to be given again."""
    root = tmp_path_factory.mktemp("stage")
    make_store(root / "data" / "prepared", "classification")
    train = {"backbone": "mobilenetv3_small_050", "pretrained": False, "epochs": 1}
    train |= {"batch_size": 4, "warmup_epochs": 0, "num_workers": 0}
    if "allow_trivial" in tasks.train.Params.model_fields["train"].annotation.model_fields:
        train["allow_trivial"] = True
    tree = {"base": {"task": "classification", "data": "data/raw"}, "train": train}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    given = []
    fit = components.training.fit.fit

    def noted(*arguments, **options):
        given.append(fit(*arguments, **options))
        return given[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("WANDB_MODE", "disabled")
        patch.setattr(components.training.fit, "fit", noted)
        assert main("train", None, tasks.train.train, [], tasks.train.finish) == 0
    assert not (root / ".resume").exists()
    return root, given[0]


def outputs(root):
    files = ["models/trained/weights.safetensors", "models/trained/model.json", "plots/train.csv"]
    files.append("metrics/train.json")
    return {
        name: hashlib.sha256((root / name).read_bytes()).hexdigest()
        for name in files
        if (root / name).exists()
    }


def test_a_refused_output_of_the_stage(trained, disk, monkeypatch, capsys):
    root, result = trained
    resumed = []

    def given(module, data, settings, seed, resume_dir, *rest):
        count, nth, disk.nth = disk.count, disk.nth, None
        resume_dir.mkdir(parents=True, exist_ok=True)
        disk.count, disk.nth = count, nth
        resumed.append(resume_dir)
        return result

    def train():
        return main("train", None, tasks.train.train, [], tasks.train.finish)

    monkeypatch.chdir(root)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(components.training.fit, "fit", given)
    expected = outputs(root)
    assert len(expected) == 4
    disk.refuse(None)
    assert train() == 0
    num_writes = disk.count
    assert num_writes > 10
    for nth in range(1, num_writes + 1):
        disk.refuse(nth)
        assert train() == 1
        said = capsys.readouterr().err
        assert "error: train: " in said and "cannot be written: no space is left" in said
        assert resumed[-1].exists()  # the training is not lost
        # Each file is there as before, or not at all: a folder is replaced by way of a rename.
        assert outputs(root).items() <= expected.items()
        assert not list(root.rglob(".*.part"))
    disk.refuse(None)
    assert train() == 0
    assert outputs(root) == expected
