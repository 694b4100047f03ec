"""The product as its user meets it: `dvc repro` in a copy of the repository, both tasks, real data.

One copy of the repository serves all tests of a task, in order: each starts where the one before
left off, as a user does.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from canaries import CANARIES, TOLD, found_in, found_unpacked
from waiting import wait_until

from components.files import sha256

ROOT = Path(__file__).parents[1]
STAGES = ["validate", "preprocess", "train", "evaluate", "export", "report"]
BIN = str(Path(sys.executable).parent)

pytestmark = pytest.mark.slow


class Copy:
    """A copy of the repository's files, a git repository of its own."""

    def __init__(self, root: Path, task: str):
        self.root = root
        self.task = task
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, files.split("\0")):
            if (ROOT / name).is_file() and not name.startswith(("metrics/", "plots/", "dvc.lock")):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, root / name)
        for command in (
            ("init", "-q"),
            ("add", "-A"),
            ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start"),
        ):
            subprocess.run(["git", *command], cwd=root, check=True)
        self.environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
        self.environment["PYTHONPATH"] = str(root)
        self.environment |= CANARIES

    def call(self, *command: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def repro(self, *arguments: str) -> tuple[list[str], str]:
        """Stages that ran, and all that was said."""
        done = self.call(sys.executable, "-m", "dvc", "repro", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return [s for s in STAGES if f"Running stage '{s}'" in done.stdout], done.stdout

    def params(self, **changes: object) -> None:
        path = self.root / "params.yaml"
        tree = yaml.safe_load(path.read_text())
        for dotted, value in changes.items():
            section, key = dotted.split("__")
            tree[section][key] = value
        path.write_text(yaml.safe_dump(tree))

    def figures(self, stage: str) -> dict:
        return json.loads((self.root / "metrics" / f"{stage}.json").read_text())


@pytest.fixture(scope="module", params=["detection", "classification"])
def copy(request, tmp_path_factory) -> Copy:
    copy = Copy(tmp_path_factory.mktemp(request.param) / "repo", request.param)
    shutil.copyfile(
        copy.root / "examples" / f"digits-{request.param}.yaml", copy.root / "params.yaml"
    )
    # Enough to learn something; the whole demo is for `make demo`.
    copy.params(train__epochs=2, export__parity_images=16, evaluate__bootstrap=200)
    # A key has no place there, but a person may write one all the same.
    secret = f"key {CANARIES['HF_TOKEN']}"
    copy.params(export__license=f"{TOLD['data']}, {TOLD['link']}, {secret}")
    copy.params(report__title=f"{TOLD['hub']}, {TOLD['weights']}, {secret}")
    if request.param == "detection":
        copy.params(preprocess__image_size=[96, 128])
    done = copy.call(sys.executable, "-m", "tasks.demo_data", request.param)
    assert done.returncode == 0, done.stderr
    return copy


def test_from_nothing_to_model_and_page(copy):
    assert copy.repro()[0] == STAGES
    figures = copy.figures("evaluate")
    # Untrained: 0.1 accuracy, 0.0 AP.
    assert figures["accuracy"] > 0.6 if copy.task == "classification" else figures["map_50"] > 0.1
    assert copy.figures("export")["max_score_difference"] <= 1e-4
    page = (copy.root / "reports" / "index.html").read_text()
    assert "<svg" in page and "data:image" in page
    assert not list((copy.root / ".resume").glob("*"))


def test_a_second_time_nothing_runs(copy):
    assert copy.repro()[0] == []


def test_export_parameters_rerun_export_and_report_alone(copy):
    copy.params(export__latency_runs=7)
    assert copy.repro()[0] == ["export", "report"]


def test_a_nested_helper_reruns_what_depends_on_it_and_nothing_else(copy):
    helper = copy.root / "components" / "evaluation" / "pictures.py"
    helper.write_text(helper.read_text() + "\n# a remark\n")
    # The figures stay what they were, so that what depends on them alone need not run.
    assert copy.repro()[0] == ["evaluate"]


def test_what_is_deleted_comes_back_the_same(copy):
    """From DVC's cache: nothing is trained again."""
    weights = copy.root / "models" / "trained" / "weights.safetensors"
    before = sha256(weights)
    for path in ("data/prepared", "models/trained"):
        shutil.rmtree(copy.root / path)
    assert copy.repro("train")[0] == []
    assert sha256(weights) == before


def test_results_seen_before_come_back(copy):
    copy.params(evaluate__num_mistakes=3)
    assert "evaluate" in copy.repro("evaluate")[0]
    copy.params(evaluate__num_mistakes=12)
    assert copy.repro("evaluate")[0] == []


def test_a_forced_rerun_gives_the_same_weights(copy):
    weights = copy.root / "models" / "trained" / "weights.safetensors"
    before = sha256(weights)
    assert copy.repro("--force", "--single-item", "train")[0] == ["train"]
    assert sha256(weights) == before


def test_the_onnx_file_alone_predicts(copy, tmp_path):
    model = shutil.copy(copy.root / "models" / "model.onnx", tmp_path)
    pattern = "data/digits-detection/test/*" if copy.task == "detection" else "data/*/3/*"
    image = sorted(copy.root.glob(pattern))[0]
    drawn = tmp_path / "drawn"
    done = copy.call(
        sys.executable, "-m", "tasks.predict", str(model), str(image), "--draw", str(drawn)
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["image"] == str(image)
    assert ("detections" if copy.task == "detection" else "probabilities") in answer
    assert (drawn / f"{image.stem}.predicted.jpg").stat().st_size > 1000
    broken = copy.call(sys.executable, "-m", "tasks.predict", str(model), "params.yaml")
    assert broken.returncode == 1 and "params.yaml" in broken.stderr


def test_wandb_has_a_run_of_each_stage(copy):
    runs = list((copy.root / "wandb").glob("offline-run-*"))
    assert len(runs) >= len(STAGES)


def test_nothing_secret_is_in_what_the_stages_left(copy):
    # DVC copies the parameters that a stage depends on, as docs/operations.md says.
    own = [copy.root / name for name in ("params.yaml", "dvc.lock", ".dvc/cache/runs", "tests")]
    assert found_in(own[0].read_bytes()) and found_in(own[1].read_bytes())
    found = {}
    for path in copy.root.rglob("*"):
        if path.is_file() and not any(path.is_relative_to(place) for place in own):
            found[path.relative_to(copy.root).as_posix()] = found_unpacked(path.read_bytes())
    assert {name: canaries for name, canaries in found.items() if canaries} == {}
    written = ["models/model.onnx", "reports/index.html", "reports/model_card.md"]
    assert {"models/trained/weights.safetensors", *written} <= set(found)
    assert any(name.startswith("wandb/offline-run-") for name in found)
    for name in written:  # the rest of what stands in the parameters
        assert b"@data.example/set" in (copy.root / name).read_bytes(), name


def test_metrics_plots_and_experiments(copy):
    for command in (["metrics", "show"], ["params", "diff"], ["metrics", "diff"], ["exp", "show"]):
        done = copy.call(sys.executable, "-m", "dvc", *command)
        assert done.returncode == 0, done.stderr
    plots = copy.call(sys.executable, "-m", "dvc", "plots", "show", "-o", "dvc_plots")
    assert plots.returncode == 0, plots.stderr
    assert "Training loss" in (copy.root / "dvc_plots" / "index.html").read_text()


def test_a_stage_that_fails_leaves_a_message_and_the_old_model(copy):
    before = (copy.root / "models" / "model.onnx").read_bytes()
    good = (copy.root / "params.yaml").read_text()
    copy.params(train__backbone="resnet5O")
    done = copy.call(sys.executable, "-m", "flows.pipeline", "--quiet")
    assert done.returncode == 1
    assert "unknown backbone 'resnet5O'" in done.stderr
    assert "Traceback" not in done.stderr
    assert (copy.root / "models" / "model.onnx").read_bytes() == before
    (copy.root / "params.yaml").write_text(good)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_flow_leaves_nothing_and_the_next_run_completes(copy, how):
    if copy.task == "classification":
        pytest.skip("the detector's turn shows it; tests/flows has every signal on a toy pipeline")
    copy.params(base__seed=int(how))  # something to train
    copy.params(train__epochs=4)
    flow = subprocess.Popen(
        [sys.executable, "-m", "flows.pipeline", "--quiet"],
        cwd=copy.root,
        env=copy.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ours() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline", "cwd", "status"]):
            inside = (process.info["cwd"] or "").startswith(str(copy.root))
            if inside and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def training() -> bool:
        return any("tasks.train" in " ".join(p.info["cmdline"] or []) for p in ours())

    wait_until(training, "the training")
    wait_until(lambda: list(copy.root.glob(".resume/*/*.ckpt")), "a checkpoint")
    flow.send_signal(how)
    flow.wait(600)
    wait_until(lambda: not ours(), "the end of all processes")
    left = [path for path in copy.root.glob(".resume/**/*") if path.is_file()]
    assert any(path.suffix == ".ckpt" for path in left)
    assert {path: found_unpacked(path.read_bytes()) for path in left} == {path: [] for path in left}
    copy.params(train__epochs=2)
    assert "train" in copy.repro("train")[0]
