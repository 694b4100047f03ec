"""From a space of parameters to the trials of a sweep, checked before any of them runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.errors import ParamsError
from flows.sweep_space import checked_space
from flows.sweep_trial import Trial
from tasks.params import load, loads
from tasks.params_edit import shown, with_values


def plan(
    root: Path, parameters: Mapping[str, Any], num_trials: int | None, seed: int
) -> list[Trial]:
    """The trials: the user's `params.yaml`, each time with other values.

    Raises:
        ParamsError: the space or `params.yaml` is faulty, or a trial's parameters are.
    """
    path = root / "params.yaml"
    load(path)
    text = path.read_text(encoding="utf-8")
    space = checked_space({"parameters": parameters, "trials": num_trials, "seed": seed})
    trials: dict[str, Trial] = {}
    for values in space.draw():
        changed = with_values(text, values)
        words = ", ".join(f"{key}: {shown(value)}" for key, value in values.items())
        try:
            loads(changed, path)
        except ParamsError as error:
            raise ParamsError(f"the trial with {words}: {error}") from None
        trial = Trial(len(trials) + 1, values, changed)
        # Other words for the same, such as a recipe's own value beside null.
        trials.setdefault(trial.params_key, trial)
    return list(trials.values())
