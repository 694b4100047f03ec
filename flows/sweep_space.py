"""Which trials a sweep has: parameters, the values each may take, and how they are combined.

A parameter's values are a list, or a range as text:

    [0.001, 0.0003]     these
    2..8                integers from 2 to 8
    0.0..0.3            numbers between, any as likely as another
    log:0.0001..0.01    numbers between, any order of magnitude as likely as another
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator

from components.errors import ParamsError
from components.settings import Settings

# What decides the figure on val; the other sections only tell of it.
SECTIONS = ("base", "validate", "preprocess", "train")
_RANGE = re.compile(r"(?P<log>log:)?(?P<low>[^.:]+(\.\d[^.]*)?)\.\.(?P<high>.+)")
# Enough for any parameter, and readable in a file.
_DIGITS = 4


class Range(Settings):
    """All numbers between two, both included."""

    low: float
    high: float
    whole: bool
    log: bool

    def draw(self, source: random.Random) -> float | int:
        """A number of it."""
        if self.whole and not self.log:
            return source.randint(int(self.low), int(self.high))
        if self.log:
            drawn = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        else:
            drawn = source.uniform(self.low, self.high)
        if self.whole:
            return min(max(round(drawn), int(self.low)), int(self.high))
        return min(max(float(f"{drawn:.{_DIGITS}g}"), self.low), self.high)


class Space(Settings):
    """The section `sweep` of a file, or what the command line says."""

    parameters: dict[str, tuple[Any, ...] | str] = Field(
        min_length=1, description="by dotted key of params.yaml: a list of values, or a range"
    )
    trials: int | None = Field(
        None, ge=1, description="so many random draws; null: every combination"
    )
    seed: int = Field(0, ge=0, description="of the random draws")

    @field_validator("parameters")
    @classmethod
    def _understood(cls, parameters: dict[str, tuple[Any, ...] | str]) -> dict[str, Any]:
        for key, values in parameters.items():
            if key.partition(".")[0] not in SECTIONS or "." not in key:
                raise ValueError(
                    f"{key}: no parameter that a sweep can vary; dotted keys of the sections "
                    f"{', '.join(SECTIONS)} are, such as train.lr"
                )
            if isinstance(values, str):
                as_range(key, values)
            elif not values:
                raise ValueError(f"{key}: no values")
        return parameters

    def choices(self) -> dict[str, tuple[Any, ...] | Range]:
        """The values of each parameter, ranges understood."""
        return {
            key: as_range(key, values) if isinstance(values, str) else values
            for key, values in self.parameters.items()
        }

    def draw(self) -> list[dict[str, Any]]:
        """The trials, each with a value for every parameter, no two of them the same.

        With the same seed fewer trials are the first of more.

        Raises:
            ParamsError: every combination is asked for of a range.
        """
        choices = self.choices()
        lists = {key: values for key, values in choices.items() if not isinstance(values, Range)}
        if self.trials is None:
            for key in choices.keys() - lists.keys():
                raise ParamsError(
                    f"{key} = {self.parameters[key]}: a range has no end of values; say how many "
                    "trials are to be drawn (--trials), or give a list"
                )
            return list(_distinct(_grid(lists)))
        if len(lists) == len(choices):
            every = list(_distinct(_grid(lists)))
            random.Random(self.seed).shuffle(every)
            return every[: self.trials]
        drawn = itertools.islice(_random(choices, self.seed), 100 * self.trials)
        return list(itertools.islice(_distinct(drawn), self.trials))


def as_range(key: str, text: str) -> Range:
    """Read a range.

    Raises:
        ValueError: it is none; says what one looks like.
    """
    found = _RANGE.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        low, high = float(found["low"]), float(found["high"])
    except ValueError:
        raise ValueError(
            f"{key} = {text!r}: neither a list of values nor a range; a range is 2..8, 0.0..0.3 or "
            "log:0.0001..0.01"
        ) from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{key} = {text!r}: a range goes from a number to a larger one")
    if found["log"] and low <= 0:
        raise ValueError(f"{key} = {text!r}: a range by orders of magnitude starts above 0")
    whole = all(re.fullmatch(r"\s*[+-]?\d+\s*", found[name]) for name in ("low", "high"))
    return Range(low=low, high=high, whole=whole, log=bool(found["log"]))


def _grid(lists: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(lists, row, strict=True)) for row in itertools.product(*lists.values()))


def _random(choices: Mapping[str, tuple[Any, ...] | Range], seed: int) -> Iterator[dict[str, Any]]:
    source = random.Random(seed)
    while True:
        yield {
            key: values.draw(source) if isinstance(values, Range) else source.choice(values)
            for key, values in choices.items()
        }


def _distinct(trials: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for trial in trials:
        name = json.dumps(trial, sort_keys=True, default=str)
        if name not in seen:
            seen.add(name)
            yield trial


def from_options(
    options: Sequence[str], file: Path | None, trials: int | None, seed: int | None
) -> Space:
    """The sweep that a command line describes.

    Args:
        options: `key=value,value` or `key=range`; they go before what the file says.
        file: YAML with a section `sweep`.
        trials, seed: likewise before the file's.

    Raises:
        ParamsError: a faulty option or file; says what is wrong and what is allowed.
    """
    tree = _section(file) if file is not None else {}
    parameters = tree.get("parameters")
    if options and (parameters is None or isinstance(parameters, dict)):
        tree["parameters"] = {**(parameters or {}), **dict(map(_option, options))}
    tree |= {key: value for key, value in (("trials", trials), ("seed", seed)) if value is not None}
    return checked_space(tree, f"{file}" if file else "the sweep")


def checked_space(tree: Mapping[str, Any], name: str = "the sweep") -> Space:
    """A sweep from plain data.

    Raises:
        ParamsError: what is wrong with it, and what is allowed.
    """
    try:
        return Space.model_validate(tree)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, item['loc'][:2]))}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False)
        ]
        said = "; ".join(dict.fromkeys(lines))
        raise ParamsError(f"{name}: {said}") from None


def _option(text: str) -> tuple[str, Any]:
    key, equals, values = text.partition("=")
    if not equals or not key.strip() or not values.strip():
        raise ParamsError(f"--set {text}: must be KEY=VALUE,VALUE or KEY=LOW..HIGH")
    try:
        # As a list in YAML: [160, 192] is one value, and so is a name with a colon in quotes.
        parsed = yaml.safe_load(f"[{values}]")
    except yaml.YAMLError as error:
        raise ParamsError(f"--set {text}: not a list of values: {error}") from None
    if ".." in values and re.match(r"\s*(log:|[+-]?\d)", values):
        return key.strip(), values.strip()
    return key.strip(), [_number(value) for value in parsed]


def _number(value: Any) -> Any:
    """1e-3 too is a number; YAML 1.1 wants 1.0e-3."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?e[+-]?\d+", value, re.IGNORECASE):
        return float(value)
    return [_number(item) for item in value] if isinstance(value, list) else value


def _section(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamsError(f"{file}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(f"{file}: not valid YAML: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("sweep"), dict):
        raise ParamsError(f"{file}: must have a section sweep, with parameters, trials, seed")
    section = dict(tree["sweep"])
    if isinstance(section.get("parameters"), dict):
        section["parameters"] = {
            key: [_number(value) for value in values] if isinstance(values, list) else values
            for key, values in section["parameters"].items()
        }
    return section
