"""What the README tells a reader to type exists and does what it says it does."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
INLINE = [c.replace("\n", " ") for c in re.findall(r"`((?:python -m|make|dvc) [^`]+)`", README)]
COMMANDS = sorted(
    {line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()} - {""}
    | set(INLINE)
)


def of(program: str) -> list[list[str]]:
    found = [shlex.split(c) for c in COMMANDS if c.split()[0] == program]
    assert found, f"the README has no {program} command"
    return found


def test_make_targets_exist():
    for words in of("make"):
        done = subprocess.run(
            ["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", of("python"), ids=" ".join)
def test_modules_exist_and_know_the_options(words):
    assert words[1] == "-m"
    done = subprocess.run(
        [sys.executable, "-m", words[2], "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for option in (w for w in words[3:] if w.startswith("--")):
        assert option in done.stdout


@pytest.mark.parametrize("words", of("dvc"), ids=" ".join)
def test_dvc_has_the_command(words):
    command = []
    for word in words[1:]:
        if not word.isalpha():
            break
        command.append(word)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *command, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_parameters_it_shows_are_allowed():
    from components.training.settings import TrainSettings

    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", README, re.S)]
    assert blocks
    for block in blocks:
        TrainSettings.model_validate(block["train"])


def test_files_it_names_exist():
    for name in re.findall(r"\]\(([^)]+)\)", README):
        if "://" not in name:
            path, _, heading = name.partition("#")
            assert (ROOT / path).exists(), name
            anchors = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.M) if heading else []
            assert heading in ["", *(text.lower().replace(" ", "-") for text in anchors)], name
    for name in re.findall(r"examples/[\w-]+\.yaml", README):
        assert (ROOT / name).exists(), name


def test_parameters_it_names_exist():
    from tasks.params import Params, schema_lines

    known = "\n".join(schema_lines(Params))
    for dotted in re.findall(r"`((?:base|train|evaluate|export|preprocess)(?:\.\w+)+)", README):
        assert f"  {dotted} (" in known, dotted


def test_ci_runs_the_readmes_test_command():
    assert "make test" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_no_registry_is_named_in_a_file():
    listed = subprocess.run(
        ["git", "grep", "-nIE", r"(index-url|find-links|/simple/?$|pypi\.org|download\.pytorch)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    others = [line for line in listed.stdout.splitlines() if "test_readme.py" not in line]
    assert others == []


def test_the_training_page_names_every_recipe_and_known_keys():
    from components.training.recipes import RECIPES
    from tasks.params import Params, schema_lines

    page = (ROOT / "docs" / "training.md").read_text()
    for name, recipe in RECIPES.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
        assert recipe.purpose in row
    known = "\n".join(schema_lines(Params))
    named = re.findall(r"`((?:base|train|preprocess)(?:\.\w+)+)", page)
    assert len(named) > 10
    for dotted in named:
        assert f"  {dotted} (" in known or f"\n{dotted}: " in known, dotted
