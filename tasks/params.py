"""Read and check `params.yaml`: one section a stage, and a small `base` that all stages share.

python -m tasks.params                     check params.yaml
python -m tasks.params FILE                check another file
python -m tasks.params --schema            every key: type, default, meaning
python -m tasks.params --recipe NAME       the section `train` as it would be with that recipe
python -m tasks.params --use FILE          check FILE and make it the new params.yaml
"""

from __future__ import annotations

import argparse
import difflib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from components.data.settings import PreprocessSettings
from components.errors import ParamsError, TimmflowError
from components.evaluation.settings import EvaluateSettings
from components.export.settings import ExportSettings
from components.files import atomic_path
from components.gate.settings import GateSettings
from components.report.settings import ReportSettings
from components.settings import Settings
from components.training.recipes import RECIPES, recipe_values, with_recipe
from components.training.settings import TrainSettings
from components.validation.settings import ValidateSettings
from tasks.retrain_settings import RetrainSettings


class BaseSettings(Settings):
    """What every stage needs to know."""

    task: Literal["classification", "detection"] = Field(description="what the model predicts")
    data: str = Field(min_length=1, description="folder of the raw data; it is never written to")
    classes: tuple[str, ...] | None = Field(
        None, description="class names the data must have, in the model's order; null: as found"
    )
    multi_label: bool = Field(
        False, description="classification: an image has any number of labels"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of every random choice")

    @model_validator(mode="after")
    def _labels_are_of_images(self) -> BaseSettings:
        if self.multi_label and self.task == "detection":
            raise ValueError(
                "multi_label: true is for classification; in detection an image has any number of "
                "boxes in any case: leave it out, or set task to classification"
            )
        return self


class Params(Settings):
    """The whole parameter file. A stage is handed `base` and its own section, never all of this."""

    base: BaseSettings = Field(description="shared by all stages")
    validate_: ValidateSettings = Field(
        ValidateSettings(), alias="validate", description="reading and checking raw data"
    )
    preprocess: PreprocessSettings = Field(
        PreprocessSettings(), description="splits and image size"
    )
    train: TrainSettings = Field(TrainSettings(), description="model and training")
    evaluate: EvaluateSettings = Field(EvaluateSettings(), description="measuring")
    export: ExportSettings = Field(ExportSettings(), description="the ONNX file")
    report: ReportSettings = Field(ReportSettings(), description="the page to review")
    gate: GateSettings = Field(
        GateSettings(), description="when a new model may replace the old one"
    )
    retrain: RetrainSettings = Field(
        RetrainSettings(), description="`python -m flows.retrain`: data in, a new version out"
    )

    @model_validator(mode="before")
    @classmethod
    def _train_over_its_recipe(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        base, train = tree.get("base"), tree.get("train", {})
        if not isinstance(base, dict) or not isinstance(train, dict):
            return tree  # of another form than it should be: that is said below
        task, several = base.get("task"), base.get("multi_label") is True
        if task not in ("classification", "detection"):
            return tree
        return {**tree, "train": with_recipe(train, task, several)}

    @model_validator(mode="after")
    def _crop_is_a_share(self) -> Params:
        scale = self.train.augment.scale
        if self.base.task == "classification" and scale != "auto" and scale[1] > 1:
            raise ValueError(
                "train.augment.scale: classification crops a share of the image, so its upper end "
                f"is at most 1, not {scale[1]:g}; for example [0.5, 1.0]"
            )
        return self

    @model_validator(mode="after")
    def _metric_is_of_the_task(self) -> Params:
        one_label = self.base.task == "classification" and not self.base.multi_label
        detection = self.base.task == "detection"
        known = ["accuracy", "balanced_accuracy"] if one_label else ["map"]
        known += ["map_50"] if detection else []
        if self.gate.metric not in ["main", *known]:
            raise ValueError(
                f"gate.metric: {self.gate.metric} is no metric of this task: main, "
                f"{' or '.join(known)}"
            )
        return self

    @model_validator(mode="after")
    def _focal_loss_is_alone(self) -> Params:
        classifier = self.train.classifier
        if classifier.loss_fn == "focal" and classifier.label_smoothing:
            raise ValueError(
                "train.classifier.label_smoothing: with loss_fn: focal there is no softmax whose "
                f"target could be spread: must be 0, not {classifier.label_smoothing:g}"
            )
        if classifier.loss_fn == "focal" and classifier.class_weights != "none":
            raise ValueError(
                "train.classifier.class_weights: must be none with loss_fn: focal, which has a "
                f"weighting of its own, not {classifier.class_weights}; balanced_sampling goes "
                "with it"
            )
        return self

    @model_validator(mode="after")
    def _needs_one_label(self) -> Params:
        classifier = self.train.classifier
        if self.base.multi_label and classifier.balanced_sampling:
            raise ValueError(
                "train.classifier.balanced_sampling: with base.multi_label classes come together "
                "in an image and cannot be drawn one by one; use class_weights: balanced"
            )
        if self.base.multi_label and classifier.label_smoothing:
            raise ValueError(
                "train.classifier.label_smoothing: with base.multi_label labels are independent, "
                f"nothing is shared out among them: must be 0, not {classifier.label_smoothing:g}"
            )
        return self


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load(path: Path) -> Params:
    """Read a parameter file.

    Raises:
        ParamsError: all that is wrong with it, a line each: dotted path, value, what is allowed,
            and the nearest known key for one that is not known.
    """
    return _checked(_tree(path), path)


def loads(text: str, path: Path) -> Params:
    """The same for the text of a parameter file that is to be written to `path`."""
    return _checked(_parsed(text, path), path)


def _checked(tree: dict[str, Any], path: Path) -> Params:
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        lines = _explained(error)
        plural = "s" if len(lines) > 1 else ""
        raise ParamsError(
            f"{path}: {len(lines)} error{plural}\n" + "\n".join(f"  {line}" for line in lines)
        ) from None


def _tree(path: Path) -> dict[str, Any]:
    """A parameter file as it stands."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; examples/ holds whole ones to copy") from None
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from None
    return _parsed(text, path)


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ParamsError(f"{path}: must be a mapping of sections: {', '.join(_keys(Params))}")
    return tree


# A union's members appear in a pydantic error's location; they are no keys of the file.
_MEMBERS = {"bool", "str", "float", "constrained-float", "constrained-int"}


def _explained(error: ValidationError) -> list[str]:
    """What is wrong, a line for each key: a value that no member of a union takes is told once."""
    by_key: dict[tuple[str, ...], Any] = {}
    for item in error.errors(include_url=False):
        parts = [str(part) for part in item["loc"]]
        location = tuple(part for part in parts if part not in _MEMBERS and "[" not in part)
        first = by_key.setdefault(location, item)
        if first is not item and item["msg"] not in first["msg"]:
            first["msg"] += f"; or: {item['msg'].removeprefix('Value error, ')}"
    return [_explain(list(location), item) for location, item in by_key.items()]


def _explain(location: list[str], item: Any) -> str:
    """One pydantic error as `dotted.path = value: what is allowed`."""
    dotted = ".".join(location)
    if item["type"] == "extra_forbidden":
        known = _keys(_section(location[:-1]))
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        return f"{dotted}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{dotted}: missing; {_description(location)}"
    message = item["msg"].removeprefix("Value error, ")
    if not dotted or isinstance(item["input"], dict):
        return f"{dotted}: {message}" if dotted else message
    return f"{dotted} = {item['input']!r}: {message} ({_description(location)})"


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _section(location: list[str]) -> type[BaseModel]:
    """The settings class at a dotted location of the file."""
    model: type[BaseModel] = Params
    for part in location:
        for name, field in model.model_fields.items():
            inner = field.annotation
            if part == (field.alias or name) and isinstance(inner, type):
                if issubclass(inner, BaseModel):
                    model = inner
                break
    return model


def _description(location: list[str]) -> str:
    model = _section(location[:-1])
    for name, field in model.model_fields.items():
        if location[-1] == (field.alias or name):
            return field.description or ""
    # An element of a list: the list's own description.
    return _description(location[:-1]) if len(location) > 1 else ""


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key; the options of a schedule are one value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and key != "scheduler_options":
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


_RECIPE_KEYS = {
    key
    for name, recipe in RECIPES.items()
    for variant in (*recipe.tasks, *recipe.variants)
    for key in _flat(recipe_values(name, variant, variant))
}


def schema_lines(model: type[BaseModel] = Params, prefix: str = "") -> Iterator[str]:
    """Every key with type, bounds, default and meaning, a line each."""
    properties = model.model_json_schema(by_alias=True).get("properties", {})
    for name, field in model.model_fields.items():
        key = field.alias or name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield (
                f"\n{prefix}{key}: {field.description}"
                if not prefix
                else (f"{prefix}{key}: {field.description}")
            )
            yield from schema_lines(inner, f"{prefix}{key}.")
            continue
        facts = properties[key]
        kind = getattr(inner, "__name__", str(inner)).replace("typing.", "")
        if "enum" in facts:
            kind = " | ".join(map(str, facts["enum"]))
        signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
        bounds = [f"{sign} {facts[word]:g}" for word, sign in signs.items() if word in facts]
        default = "required" if field.is_required() else f"default {field.default!r}"
        if f"{prefix}{key}".removeprefix("train.") in _RECIPE_KEYS and prefix.startswith("train."):
            default = f"default the recipe's, else {field.default!r}"
        inside = ", ".join([kind, *bounds, default])
        yield f"  {prefix}{key} ({inside}): {field.description}"


def _named_by_recipe(params: Params) -> dict[str, Any]:
    """What the recipe in force says, by dotted key."""
    base, train = params.base, params.train
    return _flat(recipe_values(train.recipe, base.task, train.backbone, base.multi_label))


def recipe_lines(path: Path, name: str | None) -> Iterator[str]:
    """The section `train` of a file with a recipe, a line a key: its value and where that is from.

    Args:
        path: of the parameter file; its own values go first.
        name: of the recipe; None: the file's.

    Raises:
        ParamsError: the file is faulty, with this recipe.
    """
    tree = _tree(path)
    given = tree.get("train") or {}
    if name is not None and isinstance(given, dict):
        tree = {**tree, "train": {**given, "recipe": name}}
    try:
        params = Params.model_validate(tree)
    except ValidationError:
        load(path)  # says what is wrong, unless only the recipe is
        raise ParamsError(f"{path}: does not go with the recipe {name}") from None
    recipe, named = params.train.recipe, _named_by_recipe(params)
    stated = {key for key, value in _flat(given).items() if value is not None}
    yield f"# {recipe}: {RECIPES[recipe].purpose}"
    yield f"# After {RECIPES[recipe].source}."
    for key, value in _flat(params.train.model_dump(mode="json")).items():
        origin = f"recipe {recipe}" if key in named else "default"
        if key in stated:
            origin = path.name
            if key in named and key not in ("backbone", "pretrained"):
                origin += f"; the recipe says {json.dumps(named[key])}"
        yield f"{'train.' + key:36}{json.dumps(value):>20}  # {origin}"


def _recipe_in_words(path: Path, params: Params) -> str:
    """How much of its recipe a file leaves in force."""
    recipe, named = params.train.recipe, _named_by_recipe(params)
    given, now = _flat(_tree(path).get("train") or {}), _flat(params.train.model_dump(mode="json"))
    replaced = [key for key in named if given.get(key) is not None and now[key] != named[key]]
    return f"recipe {recipe}: {len(replaced)} of its {len(named)} values are set otherwise here"


def use(source: Path, target: Path, examples: Path, force: bool) -> str:
    """Make `source` the parameter file `target`, without losing parameters somebody wrote.

    Returns:
        What was done, in a line.

    Raises:
        ParamsError: `source` is faulty, or `target` differs from every file in `examples` and
            `force` is off.
    """
    load(source)
    if target.exists():
        current = target.read_bytes()
        if current == source.read_bytes():
            return f"{target} is {source} already"
        shipped = [path.read_bytes() for path in sorted(examples.glob("*.yaml"))]
        if current not in shipped:
            if not force:
                raise ParamsError(
                    f"{target} holds parameters of your own, and {source} would replace them: "
                    "run them with `dvc repro`, or replace them with FORCE=1 (make) or --force "
                    f"(the old file is kept as {target}.bak)"
                )
            shutil.copyfile(target, f"{target}.bak")
    with atomic_path(target) as draft:
        shutil.copyfile(source, draft)
    return f"{target} is now {source}"


def command_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """The command line of `python -m tasks.<command>`, which reads a parameter file: `--params`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m tasks.{command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--params", default="params.yaml", type=Path, help="parameter file")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.params",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", nargs="?", default="params.yaml", type=Path)
    parser.add_argument("--schema", action="store_true", help="print every key and its meaning")
    parser.add_argument(
        "--recipe",
        nargs="?",
        const="",
        choices=["", *RECIPES],
        help="print what train is with this recipe (none named: the file's)",
    )
    parser.add_argument("--use", type=Path, metavar="FILE", help="make FILE the parameter file")
    parser.add_argument("--force", action="store_true", help="with --use: replace own parameters")
    args = parser.parse_args(argv)
    try:
        if args.schema:
            print("\n".join(schema_lines()).lstrip())
        elif args.recipe is not None:
            print("\n".join(recipe_lines(args.file, args.recipe or None)))
        elif args.use:
            print(use(args.use, args.file, Path("examples"), args.force))
        else:
            params = load(args.file)
            print(f"{args.file}: fine ({params.base.task} on {params.base.data})")
            print(_recipe_in_words(args.file, params))
    except TimmflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
