"""dvc.yaml says the truth: its code dependencies are what stages import, its paths are Layout's."""

import ast
from functools import cache
from pathlib import Path

import pytest
import yaml

from tasks.layout import STAGES, Layout

ROOT = Path(__file__).parents[1]
# How a stage is called and reported, not what it computes; dvc.yaml says so too.
PLUMBING = {
    "tasks/params.py",
    "tasks/stage.py",
    "tasks/layout.py",
    "tasks/tracked.py",
    "tasks/repository.py",
    "components/hidden.py",
    "components/tracking/plan.py",
    "components/tracking/record.py",
}
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())


def module_file(name: str) -> Path | None:
    """The file of a module of this project, or None for a package or somebody else's module."""
    file = ROOT / (name.replace(".", "/") + ".py")
    return (
        file if name.split(".")[0] in ("components", "tasks", "flows") and file.exists() else None
    )


@cache
def imported_files(file: Path) -> set[Path]:
    """Files of this project that a file imports, late imports too, but not those for types only."""
    found: set[Path] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found.update(filter(None, map(module_file, names)))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text()))
    return found


def closure(file: Path) -> set[str]:
    """All files of this project that a file needs, but for the plumbing."""
    seen: set[Path] = set()
    todo = [file]
    while todo:
        current = todo.pop()
        name = current.relative_to(ROOT).as_posix()
        if current in seen or name in PLUMBING:
            continue
        seen.add(current)
        todo += imported_files(current)
    return {path.relative_to(ROOT).as_posix() for path in seen}


def code_deps(stage: str) -> list[str]:
    return [d for d in PIPELINE["stages"][stage]["deps"] if d.startswith(("components", "tasks"))]


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


@pytest.mark.parametrize("stage", STAGES)
def test_every_file_a_stage_imports_is_a_dependency(stage):
    needed = closure(ROOT / "tasks" / f"{stage}.py")
    missing = sorted(f for f in needed if not any(covers(d, f) for d in code_deps(stage)))
    assert missing == []


@pytest.mark.parametrize("stage", STAGES)
def test_no_code_is_a_dependency_that_a_stage_does_not_import(stage):
    needed = closure(ROOT / "tasks" / f"{stage}.py")
    idle = [d for d in code_deps(stage) if not any(covers(d, f) for f in needed)]
    assert idle == []


def outputs(stage: str) -> set[str]:
    spec = PIPELINE["stages"][stage]
    entries = [*spec.get("outs", []), *spec.get("metrics", []), *spec.get("plots", [])]
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def test_stages_are_those_of_the_layout_and_depend_on_their_whole_section():
    assert tuple(PIPELINE["stages"]) == STAGES
    for stage, spec in PIPELINE["stages"].items():
        assert spec["cmd"] == f"python -m tasks.{stage}"
        assert {"base", stage} <= set(spec["params"])


def test_outputs_are_the_paths_of_the_layout():
    layout = Layout(Path())
    expected = {
        "validate": {
            layout.tables,
            layout.facts,
            layout.validation,
            layout.validation_page,
            layout.profile,
        },
        "preprocess": {layout.prepared},
        "train": {layout.weights, layout.plots / "train.csv"},
        "evaluate": {
            layout.evaluation,
            *(layout.plots / f"{n}.csv" for n in ("confusion", "precision_recall", "calibration")),
        },
        "export": {layout.onnx, layout.formats, layout.export_details},
        "report": {layout.page, layout.model_card},
    }
    for stage, paths in expected.items():
        assert outputs(stage) == {p.as_posix() for p in paths | {layout.metrics(stage)}}


def test_dvc_keeps_the_runs_of_every_stage():
    """It has no run cache for a stage with an uncached output that is no metric and no plot."""
    for stage, spec in PIPELINE["stages"].items():
        assert [out for out in spec["outs"] if not isinstance(out, str)] == [], stage


@pytest.mark.parametrize("folder", ["components", "tasks"])
def test_imports_go_one_way(folder):
    """flows → tasks → components; prefect above components, wandb in one module."""
    above = {"components": ("tasks", "flows"), "tasks": ("flows",)}[folder]
    for file in (ROOT / folder).rglob("*.py"):
        text = file.read_text()
        for node in ast.walk(ast.parse(text)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            tops = {name.split(".")[0] for name in names}
            assert not tops & set(above), file
            if folder == "components":
                assert not tops & {"prefect", "dvc"}, file
            if file.parent.name != "tracking":
                assert not tops & {"wandb", "wandb_workspaces"}, file


@pytest.mark.parametrize(
    ("path", "ignored"),
    [("data/", False), ("data/raw.dvc", False), ("data/raw/", True), ("data/facts.parquet", True)],
)
def test_dvc_finds_data_that_it_tracks_and_git_does_not_take_the_data(path, ignored):
    # DVC asks this and not git: it does not look for *.dvc in a folder that is ignored.
    from scmrepo.git import Git

    assert Git(ROOT).is_ignored(path) == ignored
