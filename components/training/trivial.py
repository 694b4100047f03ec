"""What a model that has learnt nothing may score by luck: a training has to beat it."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from lightning import Callback, LightningModule, Trainer

from components.data.store import PreparedStore

_MARGIN = 1e-6  # float32 metrics: equal is not better
_GUESSES = 100  # drawn, to see how guessing scatters
_CHANCE = 0.05  # of a training that only guesses to pass for one that has learnt


def trivial_scores(store: PreparedStore, num_epochs: int = 1) -> dict[str, float]:
    """Validation metrics, by logged name, that a model without any knowledge stays below.

    Each but detection's is the upper end of an interval, since any network that guesses is above
    the middle now and then, the more often the more epochs it has, and a small validation set
    scatters widely. Classification: accuracy of the most frequent class, always; macro F1 of that,
    or of guesses with the classes' shares, whichever is more. Several labels an image: average
    precision of a random order. Detection: nothing, ever. A training beats it if it beats any one
    of these in any epoch: with rare classes a good model may have no more accuracy. A metric by
    which not even a perfect model could be told apart, on very few images, is left out.

    Args:
        store: with the images.
        num_epochs: of the training; 19 of 20 that guess anew in each of them beat nothing.
    """
    if store.info.task == "detection":
        return {"val/map": 0.0}
    num_metrics = 1 if store.info.multi_label else 2
    deviations = NormalDist().inv_cdf(1 - _CHANCE / num_metrics / num_epochs)
    scores: dict[str, float] = {}
    if store.info.multi_label:
        labels = np.array([store.label_vector(row) for row in store.rows("val")])
        classes = [column for column in labels.T if column.any()] if len(labels) else []
        if classes:
            scores["val/map"] = _of_guesses(lambda rng: _random_map(classes, rng), deviations)
    elif len(val := np.array([store.label(row) for row in store.rows("val")])):
        constant = np.full(len(val), np.bincount(val).argmax())
        share = float((val == constant).mean())
        scores["val/accuracy"] = share + deviations * math.sqrt(share * (1 - share) / len(val))
        f1 = _of_guesses(lambda rng: _macro_f1(val, rng.permutation(val)), deviations)
        scores["val/f1"] = max(_macro_f1(val, constant), f1)
    return {name: score for name, score in scores.items() if score < 1 - _MARGIN}


def _of_guesses(score: Callable[[np.random.Generator], float], deviations: float) -> float:
    """So many standard deviations above the mean of a score that is drawn."""
    rng = np.random.default_rng(0)
    drawn = [score(rng) for _ in range(_GUESSES)]
    return float(np.mean(drawn) + deviations * np.std(drawn))


def _macro_f1(true: np.ndarray, guessed: np.ndarray) -> float:
    """Over the classes there are or that were guessed."""
    both = np.bincount(true[true == guessed], minlength=max(true.max(), guessed.max()) + 1)
    sizes = np.bincount(true, minlength=len(both)) + np.bincount(guessed, minlength=len(both))
    return float((2 * both[sizes > 0] / sizes[sizes > 0]).mean())


def _random_map(classes: list[np.ndarray], rng: np.random.Generator) -> float:
    """Mean over the classes of the average precision, the images in a random order."""
    found = []
    for labels in classes:
        places = np.flatnonzero(rng.permutation(labels)) + 1
        found.append((np.arange(1, len(places) + 1) / places).mean())
    return float(np.mean(found))


class BeatsTrivial(Callback):
    """Whether some epoch was better than a model that knows nothing.

    Args:
        scores: see `trivial_scores`; without any, everything is better.
    """

    def __init__(self, scores: dict[str, float]):
        self.scores = scores
        self.beaten = not scores

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare."""
        if trainer.sanity_checking:
            return
        for name, score in self.scores.items():
            value = trainer.callback_metrics.get(name)
            if value is not None and float(value) > score + _MARGIN:
                self.beaten = True

    def state_dict(self) -> dict[str, bool]:
        """Whether it was, for the checkpoint."""
        return {"beaten": self.beaten}

    def load_state_dict(self, state_dict: dict[str, bool]) -> None:
        """From the checkpoint."""
        self.beaten = state_dict["beaten"]
