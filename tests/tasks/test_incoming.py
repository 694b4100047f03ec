"""Batches as a user brings them: verdicts, merging, refusals, and being killed at every step."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.contract.readers import read_dataset
from components.errors import DataError
from components.validation import versions
from tasks import incoming as command
from tasks.incoming import incoming, undo
from tasks.layout import Layout
from tasks.params import Params

REPOSITORY = Path(__file__).parents[2]


def parameters(task: str, **validate: object) -> Params:
    train = {"augment": {"scale": [0.5, 1.0]}} if task == "classification" else {}
    base = {"task": task, "data": "data/raw"}
    return Params.model_validate({"base": base, "train": train, "validate": validate})


def digest(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def draw(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(grid).resize((64, 48), Image.Resampling.BICUBIC).save(path)
    return path


def folders(root: Path, levels: tuple[str, ...] = ("train", "val"), each: int = 2) -> Path:
    for first, level in enumerate(levels):
        for second, name in enumerate(("cat", "dog")):
            for number in range(each):
                draw(root / level / name / f"{number}.png", 100 * first + 10 * second + number)
    return root


def coco(root: Path, each: int = 2, first_seed: int = 500, **splits: str) -> Path:
    """COCO data; `splits` gives the names of the JSON files by split."""
    for place, (split, name) in enumerate((splits or {"train": "", "val": ""}).items()):
        content: dict[str, list] = {"images": [], "annotations": []}
        content["categories"] = [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}]
        for number in range(each):
            draw(root / split / f"{number}.png", first_seed + 100 * place + number)
            row = {"id": number, "file_name": f"{number}.png", "width": 64, "height": 48}
            content["images"].append(row)
            box = {"bbox": [4, 5, 20, 11], "area": 200, "iscrowd": 0, "id": number}
            content["annotations"].append(box | {"image_id": number, "category_id": 3 + 6 * number})
        file = root / (name or f"annotations/instances_{split}.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content | {"info": {"about": split}}))
    return root


class Place:
    """A repository with data and a batch."""

    def __init__(self, root: Path, task: str, **validate: object) -> None:
        self.root, self.layout = root, Layout(root)
        self.params = parameters(task, **validate)
        self.data, self.batch = root / "data" / "raw", root / "data" / "incoming" / "monday"

    def run(self, merge: bool = True) -> dict:
        report = incoming(self.params, self.layout, self.batch, merge)
        path = self.root / "reports" / "incoming" / f"{self.batch.name}.json"
        assert json.loads(path.read_text()) == report
        return report

    def checks(self, report: dict) -> set[str]:
        return {item["check"] for item in report["findings"] if item["severity"] == "error"}

    def leftovers(self) -> set[str]:
        return {path.name for path in self.data.parent.iterdir()} - {"incoming", ".raw.lock"}


@pytest.fixture
def pets(tmp_path: Path) -> Place:
    place = Place(tmp_path, "classification")
    folders(place.data)
    draw(place.batch / "cat" / "0.png", 900)
    draw(place.batch / "cat" / "new.png", 901)
    shutil.copy(place.data / "val" / "dog" / "1.png", draw(place.batch / "dog" / "x.png", 0))
    return place


@pytest.fixture
def boxes(tmp_path: Path) -> Place:
    place = Place(tmp_path, "detection")
    coco(place.data)
    coco(place.batch, 2, 700, train="annotations/instances_train.json")
    return place


def test_checking_changes_nothing(pets):
    before = digest(pets.root)
    report = pets.run(merge=False)
    assert (report["verdict"], report["num_new"], report["num_errors"]) == ("fine", 2, 0)
    assert report["skipped"] == {"dog/x.png": "the data: val/dog/1.png"}
    after = digest(pets.root)
    assert after.pop("reports/incoming/monday.json")
    assert after == before


def test_merging_folders(pets):
    before, batch = digest(pets.data), digest(pets.batch)
    report = pets.run()
    name = f"train/cat/0-{batch['cat/0.png'][:12]}.png"
    assert report["verdict"] == "merged"
    assert report["added"] == {"cat/0.png": name, "cat/new.png": "train/cat/new.png"}
    new = {name: batch["cat/0.png"], "train/cat/new.png": batch["cat/new.png"]}
    assert digest(pets.data) == before | new
    assert digest(pets.batch) == batch
    assert digest(pets.root / "data" / "raw.previous") == before
    assert pets.leftovers() == {"raw", "raw.previous"}
    assert report["version"].startswith("not recorded")


def test_the_same_batch_again_is_nothing_new(pets):
    pets.run()
    before = digest(pets.root / "data")
    report = pets.run()
    assert (report["verdict"], report["num_new"], len(report["skipped"])) == ("nothing-new", 0, 3)
    assert digest(pets.root / "data") == before


def test_undo_and_undo_again(pets):
    before = digest(pets.data)
    with pytest.raises(DataError, match="no version to go back to"):
        undo(pets.params, pets.layout)
    pets.run()
    after = digest(pets.data)
    undo(pets.params, pets.layout)
    assert digest(pets.data) == before
    undo(pets.params, pets.layout)
    assert digest(pets.data) == after


def test_merging_coco(boxes):
    before = digest(boxes.data)
    old = json.loads((boxes.data / "annotations/instances_train.json").read_text())
    report = boxes.run()
    assert report["verdict"] == "merged"
    new = json.loads((boxes.data / "annotations/instances_train.json").read_text())
    for key in ("images", "annotations", "categories"):
        assert new[key][: len(old[key])] == old[key]
        ids = [row["id"] for row in new[key]]
        assert len(set(ids)) == len(ids)
    assert new["info"] == {"about": "train"}
    assert len(new["images"]) == len(new["annotations"]) == 4
    assert new["annotations"][3]["area"] == 200
    changed = {path for path, hash in digest(boxes.data).items() if before.get(path) != hash}
    assert changed == {"annotations/instances_train.json", *report["added"].values()}
    assert digest(boxes.root / "data" / "raw.previous") == before
    reading = read_dataset(boxes.data, "coco", "detection")
    assert reading.findings == []
    assert [image.split for image in reading.images].count("train") == 4
    assert boxes.run()["verdict"] == "nothing-new"


@pytest.mark.parametrize(
    ("file", "folder"), [("train/_annotations.coco.json", "train"), ("train.json", "train")]
)
def test_merging_other_layouts_of_coco(boxes, file, folder):
    shutil.rmtree(boxes.data)
    coco(boxes.data, train=file, val=file.replace("train", "val"))
    report = boxes.run()
    assert report["verdict"] == "merged", report["reason"]
    assert {str(Path(path).parent) for path in report["added"].values()} == {folder}


def test_a_split_that_the_batch_brings(boxes):
    coco(boxes.batch, 1, 800, val="annotations/instances_val.json")
    report = boxes.run()
    assert {Path(path).parts[0] for path in report["added"].values()} == {"train", "val"}
    again = read_dataset(boxes.data, "coco", "detection")
    assert sorted(str(image.split) for image in again.images) == ["train"] * 4 + ["val"] * 3


def other_label(place: Place) -> None:
    shutil.copy(place.data / "train/cat/0.png", draw(place.batch / "dog/was-a-cat.png", 0))


def twice_in_the_batch(place: Place) -> None:
    shutil.copy(place.batch / "cat/new.png", place.batch / "dog/too.png")


def new_class(place: Place) -> None:
    draw(place.batch / "emu" / "1.png", 7)


def truncated(place: Place) -> None:
    path = place.batch / "cat" / "new.png"
    path.write_bytes(path.read_bytes()[:-200])


REFUSED: dict[str, tuple[Callable[[Place], None], str]] = {
    "there with another label": (other_label, "contradictory-labels"),
    "twice with two labels": (twice_in_the_batch, "contradictory-labels"),
    "a class the data lacks": (new_class, "class-unknown"),
    "a broken image": (truncated, "image-undecodable"),
}


def test_nothing_is_written_through_a_link_into_the_data(boxes):
    (boxes.data / "train").rename(boxes.data / "real")
    (boxes.data / "annotations").rename(boxes.data / "json")
    for name, target in (("train", "real"), ("annotations", "json")):
        (boxes.data / name).symlink_to(boxes.data / target)
    before = digest(boxes.data)
    report = boxes.run()
    assert report["verdict"] == "refused" and "make it relative" in report["reason"]
    assert digest(boxes.data) == before
    for name, target in (("train", "real"), ("annotations", "json")):
        (boxes.data / name).unlink()
        (boxes.data / name).symlink_to(target)
    report = boxes.run()
    assert report["verdict"] == "merged", report["reason"]


def test_ids_of_data_in_quarantine(boxes):
    path = boxes.data / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    draw(boxes.data / "train/2.png", 999)
    content["images"].append({**content["images"][0], "id": 2, "file_name": "2.png"})
    content["annotations"].append({**content["annotations"][0], "id": "third", "image_id": 2})
    path.write_text(json.dumps(content))
    boxes.params = parameters("detection", quarantine=True, quarantine_max_share=1.0)
    report = boxes.run()
    assert report["verdict"] == "merged", report["reason"]


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("quarantine", [False, True])
def test_a_batch_is_refused_whole(pets, case, quarantine):
    change, check = REFUSED[case]
    change(pets)
    pets.params = parameters("classification", quarantine=quarantine, quarantine_max_share=1.0)
    before = digest(pets.root / "data")
    report = pets.run()
    assert report["verdict"] == "refused"
    assert pets.checks(report) == {check}
    assert {key: hash for key, hash in digest(pets.root / "data").items() if "lock" not in key} == (
        before
    )


def test_severities_count(pets):
    other_label(pets)
    pets.params = parameters("classification", severity={"contradictory-labels": "warning"})
    assert pets.run(merge=False)["verdict"] == "fine"


def test_the_same_image_with_other_boxes_is_refused(boxes):
    shutil.copy(boxes.data / "train/0.png", boxes.batch / "train/0.png")
    assert boxes.run(merge=False)["skipped"] == {"train/0.png": "the data: train/0.png"}
    path = boxes.batch / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [4, 5, 20, 12]
    path.write_text(json.dumps(content))
    report = boxes.run()
    assert (report["verdict"], boxes.checks(report)) == ("refused", {"contradictory-labels"})


def test_looks_like_the_data(pets):
    with Image.open(pets.data / "train/cat/0.png") as image:
        image.resize((60, 45)).save(pets.batch / "cat/small.png")
    report = pets.run(merge=False)
    found = [item for item in report["findings"] if item["check"] == "near-duplicate"]
    assert [item["where"] for item in found] == ["cat/small.png"]
    assert "train/cat/0.png" in found[0]["message"]


def test_drift_of_the_batch_is_reported(tmp_path):
    place = Place(tmp_path, "classification")
    folders(place.data, each=20)
    for number in range(60):
        path = draw(place.batch / "cat" / f"n{number}.png", 1000 + number)
        with Image.open(path) as image:
            image.point(lambda value: value // 4).save(path)
    report = place.run(merge=False)
    assert report["verdict"] == "fine"
    found = {item["check"] for item in report["findings"] if item["check"].startswith("drift-")}
    assert found == {"drift-brightness", "drift-labels"}


def test_what_cannot_be_merged_says_so(pets):
    for name in ("cat", "dog"):
        shutil.move(pets.batch / name, pets.batch / "test" / name)
    (pets.batch / "train" / "cat").mkdir(parents=True)
    draw(pets.batch / "train" / "cat" / "y.png", 77)
    draw(pets.batch / "test" / "cat" / "z.png", 78)
    before = digest(pets.data)
    report = pets.run()
    assert report["verdict"] == "refused"
    assert "brings the split test, which the data does not have" in report["reason"]
    assert digest(pets.data) == before


def test_places_that_are_none(pets):
    for batch in (pets.data, pets.data / "train", pets.data.parent):
        with pytest.raises(DataError, match="must lie outside"):
            incoming(pets.params, pets.layout, batch, True)
    with pytest.raises(DataError, match=r"batch .*nowhere: there is no such folder"):
        incoming(pets.params, pets.layout, pets.root / "nowhere", False)
    truncated_data = pets.data / "train/cat/0.png"
    truncated_data.write_bytes(b"")
    with pytest.raises(DataError, match=r"the data itself has 1 error, such as .*file is empty"):
        pets.run()


def test_one_merge_at_a_time(pets):
    with (
        versions.locked(pets.data),
        pytest.raises(DataError, match="another process is changing it"),
    ):
        pets.run()


STEPS = {
    "while building": ("components.validation.merge.shutil.copytree", OSError("no space left")),
    "at an image": ("components.validation.merge_names.copy_image", OSError("no space left")),
    "at the check": ("components.validation.merge.check_merged", DataError("not the sum")),
    "a defect": ("components.validation.merge.check_merged", RuntimeError("a defect")),
    "stopped": ("components.validation.merge.check_merged", KeyboardInterrupt()),
    "at the swap": ("components.validation.versions.exchange", OSError("not permitted")),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_leaves_the_old_data(pets, monkeypatch, step):
    target, fault = STEPS[step]

    def fail(*args: object, **options: object) -> None:
        raise fault

    before = digest(pets.data)
    with monkeypatch.context() as patch:
        patch.setattr(target, fail)
        if isinstance(fault, DataError):
            assert pets.run()["reason"] == "not the sum"
        else:
            with pytest.raises(type(fault)):
                pets.run()
    assert digest(pets.data) == before
    assert pets.leftovers() - {"raw.previous"} == {"raw"}
    assert pets.run()["verdict"] == "merged"
    assert digest(pets.data.with_name("raw.previous")) == before


def test_a_file_that_changes_meanwhile_is_noticed(pets, monkeypatch):
    before = digest(pets.data)
    copy = command.Path.write_bytes

    def other(reading, image, target):
        copy(target, (pets.batch / "cat/0.png").read_bytes())

    monkeypatch.setattr("components.validation.merge_names.copy_image", other)
    report = pets.run()
    assert report["verdict"] == "refused"
    assert "not the sum of its parts: 1 images lost" in report["reason"]
    assert digest(pets.data) == before


CHANGES = {"os.link", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.copyfile"}


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Do `work` in a child that is killed right before its change `number` of the file system."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, args: object) -> None:
            nonlocal seen
            if event in CHANGES:
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sys.addaudithook(hook)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def kill_at_every_step(model: Place, tmp_path: Path, at_once: bool = True) -> None:
    """Either version is whole, and the next run ends with the new one and keeps the old one.

    Args:
        model: data and a batch; copies of it are worked on.
        tmp_path: for them.
        at_once: folders can be exchanged in one step.
    """
    old, older = digest(model.data), digest(model.data.with_name("raw.previous"))
    expected: dict[str, str] = {}
    for number in range(1, 200):
        place = Place(tmp_path / str(number), model.params.base.task)
        shutil.copytree(model.root, place.root)
        killed = killed_at(number, place.run)
        if not place.data.exists():  # only where folders cannot be exchanged
            assert not at_once
            versions.recover(place.data)
        found = digest(place.data)
        assert found in (old, expected) or not expected
        if found == old and expected and number % 4:  # the next run is tried at every fourth
            versions.recover(place.data)
            assert digest(place.data) == old
            assert digest(place.data.with_name("raw.previous")) == older
        else:
            assert place.run()["verdict"] == ("merged" if found == old else "nothing-new")
            expected = expected or digest(place.data)
            assert digest(place.data) == expected
            assert digest(place.data.with_name("raw.previous")) == old
        assert place.leftovers() == {"raw", "raw.previous"}
        shutil.rmtree(place.root)
        if not killed:
            assert number > 12
            return
    raise AssertionError("it never came to its end")


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("kind", ["folder", "coco"])
def test_killed_at_any_step(tmp_path, monkeypatch, kind, at_once):
    if not at_once:
        monkeypatch.setattr(versions, "_exchange_at_once", lambda *args: False)
    model = Place(tmp_path / "model", "classification" if kind == "folder" else "detection")
    if kind == "folder":
        folders(model.data, each=1)
        draw(model.batch / "cat" / "new.png", 901)
    else:
        coco(model.data, 1)
        coco(model.batch, 1, 700, train="annotations/instances_train.json")
    draw(model.data.with_name("raw.previous") / "older.png", 5)
    kill_at_every_step(model, tmp_path, at_once)


@pytest.mark.slow
def test_command_and_dvc(pets):
    """The new version is one of DVC's; check, refusal and help have their exit status."""
    environment = {
        "PYTHONPATH": str(REPOSITORY),
        "PATH": os.environ["PATH"],
        "HOME": str(pets.root),
    }
    environment |= {"DVC_NO_ANALYTICS": "1", "WANDB_MODE": "disabled"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *words], cwd=pets.root, env=environment, capture_output=True,
            text=True,
        )  # fmt: skip

    (pets.root / "params.yaml").write_text(
        "base: {task: classification, data: data/raw}\ntrain: {augment: {scale: [0.5, 1.0]}}\n"
    )
    subprocess.run(["git", "init", "-q"], cwd=pets.root, check=True)
    assert run("dvc", "init", "-q").returncode == 0
    done = run("tasks.incoming", "data/incoming/monday", "--merge")
    assert (done.returncode, done.stderr) == (0, "")
    assert "recorded: commit data/raw.dvc" in done.stdout
    assert "merged; 3 images, 2 new, 1 there already" in done.stdout
    first = (pets.root / "data/raw.dvc").read_text()
    done = run("tasks.incoming", "--undo")
    assert "the version before is back; recorded" in done.stdout
    assert (pets.root / "data/raw.dvc").read_text() != first
    truncated(pets)
    done = run("tasks.incoming", "data/incoming/monday", "--merge")
    assert done.returncode == 1
    assert "error: cat/new.png" in done.stdout and "refused" in done.stdout
    done = run("tasks.incoming", "data/incoming/tuesday")
    assert done.returncode == 1
    assert done.stderr.startswith("error: incoming: batch data/incoming/tuesday: there is no such")
    assert done.stderr.count("\n") == 1


STAGE = "stages: {make: {cmd: make, outs: [data/raw: {cache: true}]}}"
TRACKED = {
    "by nothing": ({}, (["add", "--quiet", "data/raw"], "data/raw.dvc")),
    "by itself": ({"data/raw.dvc": ""}, (["add", "--quiet", "data/raw"], "data/raw.dvc")),
    "by a folder above": ({"data.dvc": ""}, (["add", "--quiet", "data"], "data.dvc")),
    "by a stage": ({"dvc.yaml": STAGE}, (["commit", "--quiet", "--force", "make"], "dvc.lock")),
    "by an empty file": ({"dvc.yaml": ""}, (["add", "--quiet", "data/raw"], "data/raw.dvc")),
}


@pytest.mark.parametrize("case", TRACKED)
def test_how_dvc_records_the_data(tmp_path, case):
    files, expected = TRACKED[case]
    (tmp_path / "data" / "raw").mkdir(parents=True)
    assert command.recording(tmp_path, "data/raw") == "this is no DVC repository"
    (tmp_path / ".dvc").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert command.recording(tmp_path, "data/raw") == expected
    assert "outside" in command.recording(tmp_path, "..")


def test_git_that_ignores_the_pointer_is_named(pets):
    subprocess.run(["git", "init", "-q"], cwd=pets.root, check=True)
    (pets.root / ".dvc").mkdir()
    (pets.root / ".gitignore").write_text("/data/\n")
    report = pets.run()
    assert report["verdict"] == "merged"
    assert report["version"].startswith("not recorded: git ignores data/raw.dvc")
