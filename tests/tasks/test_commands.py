"""Commands as a user meets them: quick help, and one clear message for everything that is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
EXAMPLE = yaml.safe_load((ROOT / "examples" / "digits-classification.yaml").read_text())


def run(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture
def workspace(tmp_path, untracked):
    """A folder of images in two classes, and parameters for it."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 160)):
        folder = tmp_path / "raw" / name
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(level, level + 60, (48, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    write_params(tmp_path)
    return tmp_path


def write_params(folder: Path, **changes) -> None:
    tree = json.loads(json.dumps(EXAMPLE))
    tree["base"]["data"] = "raw"
    tree["train"] |= {"backbone": "mobilenetv3_small_050", "pretrained": False, "epochs": 1}
    tree["train"] |= {"warmup_epochs": 0, "batch_size": 8}
    tree["preprocess"]["image_size"] = 32
    for dotted, value in changes.items():
        section, key = dotted.split("__")
        tree[section][key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))


@pytest.mark.parametrize(
    "module",
    [
        "validate",
        "preprocess",
        "train",
        "evaluate",
        "export",
        "report",
        "predict",
        "serve",
        "preview",
        "replay",
        "largest_batch",
        "params",
        "demo_data",
        "publish",
    ],
)
def test_help_does_not_wait_for_heavy_libraries(module):
    code = (
        f"import sys, tasks.{module} as m\n"
        "assert not {'torch', 'timm', 'pandas', 'wandb', 'prefect'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    help_text = run(f"tasks.{module}", "--help", cwd=ROOT)
    assert help_text.returncode == 0 and f"tasks.{module}" in help_text.stdout


def test_import_components_is_light_and_its_names_are_there():
    code = (
        "import sys, components\n"
        "assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)\n"
        "assert all(getattr(components, name) for name in components.__all__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def expect_error(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"train__epochs": 0}, ("train.epochs = 0", "greater than or equal to 1")),
        ({"train__lr": "fast"}, ("train.lr = 'fast'", "number")),
        (
            {"train__augment": {"flip": 3}},
            ("1 error\n", "train.augment.flip = 3: ", "equal to 1; or: Input should be 'auto'"),
        ),
        ({"train__epocs": 3}, ("train.epocs: unknown key; did you mean epochs?",)),
        ({"preprocess__image_size": 100}, ("preprocess.image_size = 100", "multiple of 32")),
        ({"base__task": "segmentation"}, ("base.task", "'classification' or 'detection'")),
    ],
)
def test_a_wrong_parameter(workspace, change, parts):
    write_params(workspace, **change)
    expect_error(run("tasks.validate", cwd=workspace), "params.yaml: 1 error", *parts)
    assert not (workspace / "data").exists() and not (workspace / "metrics").exists()


def test_all_wrong_parameters_at_once(workspace):
    write_params(workspace, train__epochs=0, train__lr=-1, evaluate__nms=1)
    expect_error(
        run("tasks.validate", cwd=workspace), "3 errors", "train.epochs", "train.lr", "evaluate.nms"
    )


def test_a_missing_parameter_file(tmp_path, untracked):
    expect_error(run("tasks.train", cwd=tmp_path), "params.yaml: no such file")


def test_a_key_given_twice(workspace):
    with (workspace / "params.yaml").open("a") as file:
        file.write("base: {task: detection, data: x}\n")
    expect_error(run("tasks.validate", cwd=workspace), "'base' stands here twice")


def test_a_missing_data_folder(workspace):
    write_params(workspace, base__data="nowhere")
    expect_error(run("tasks.validate", cwd=workspace), "nowhere")
    assert not (workspace / "data").exists()


def test_a_stage_before_its_turn_names_the_stage_that_is_missing(workspace):
    expect_error(run("tasks.train", cwd=workspace), "run the preprocess stage first")
    assert not (workspace / "models").exists()


def test_an_unreadable_image(workspace):
    (workspace / "raw" / "dark" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    expect_error(run("tasks.validate", cwd=workspace), "1 error in the data", "dark/3.png")
    assert (workspace / "reports" / "validation.json").exists()
    assert not (workspace / "data").exists()


def test_an_image_that_broke_after_validation(workspace):
    assert run("tasks.validate", cwd=workspace).returncode == 0
    (workspace / "raw" / "dark" / "3.png").write_bytes(b"")
    expect_error(run("tasks.preprocess", cwd=workspace), "dark/3.png")
    assert not (workspace / "data" / "prepared").exists()
    assert not list(workspace.glob("data/.prepared*"))


def test_an_unknown_backbone(workspace):
    write_params(workspace, train__backbone="resnet5O")
    for stage in ("validate", "preprocess"):
        assert run(f"tasks.{stage}", cwd=workspace).returncode == 0
    expect_error(
        run("tasks.train", cwd=workspace), "train.backbone: unknown backbone 'resnet5O'", "resnet50"
    )
    assert not (workspace / "models").exists()


class TestUseParams:
    """`python -m tasks.params --use` never loses what somebody wrote."""

    @pytest.fixture
    def folder(self, tmp_path):
        examples = tmp_path / "examples"
        examples.mkdir()
        for name in ("digits-detection", "digits-classification"):
            text = (ROOT / "examples" / f"{name}.yaml").read_text()
            (examples / f"{name}.yaml").write_text(text)
        return tmp_path

    def use(self, folder, *arguments):
        return run(
            "tasks.params", "--use", "examples/digits-detection.yaml", *arguments, cwd=folder
        )

    def test_an_example_is_replaced(self, folder):
        other = (folder / "examples" / "digits-classification.yaml").read_text()
        (folder / "params.yaml").write_text(other)
        assert self.use(folder).returncode == 0
        assert "task: detection" in (folder / "params.yaml").read_text()

    def test_own_parameters_are_not(self, folder):
        (folder / "params.yaml").write_text("mine")
        expect_error(self.use(folder), "parameters of your own", "--force")
        assert (folder / "params.yaml").read_text() == "mine"

    def test_unless_forced_and_then_they_are_kept(self, folder):
        (folder / "params.yaml").write_text("mine")
        assert self.use(folder, "--force").returncode == 0
        assert (folder / "params.yaml.bak").read_text() == "mine"


def filled(given, below):
    """A tree with the values below it in the place of nulls, which leave them to the recipe."""
    return {
        key: filled(value, below[key])
        if isinstance(value, dict)
        else (below[key] if value is None else value)
        for key, value in given.items()
    }


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_what_one_starts_from_leaves_the_training_to_the_recipe(task):
    said = run("tasks.params", f"examples/own-{task}.yaml", cwd=ROOT).stdout
    assert "recipe finetune: 0 of its" in said


@pytest.mark.parametrize(
    "example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.stem
)
def test_examples_are_whole_and_fine(example):
    from tasks.params import load

    params = load(example).model_dump(mode="json", by_alias=True)
    given = yaml.safe_load(example.read_text())
    # The two fields with a shorthand: a number for a square, or for as many steps each way.
    size = given["preprocess"]["image_size"]
    given["preprocess"]["image_size"] = [size, size] if isinstance(size, int) else size
    steps = given["train"]["augment"]["multi_scale"]
    given["train"]["augment"]["multi_scale"] = [-steps, steps] if isinstance(steps, int) else steps
    given["train"] = filled(given["train"], params["train"])
    assert given == params, "a key is missing, or is read as another value"
