"""What a model that has learnt nothing scores: a training has to beat it."""

from __future__ import annotations

import numpy as np
from lightning import Callback, LightningModule, Trainer

from components.data.store import PreparedStore

_MARGIN = 1e-6  # float32 metrics: equal is not better


def trivial_scores(store: PreparedStore) -> dict[str, float]:
    """Validation metrics of the trivial model, by logged name.

    Classification: the most frequent training class, always; with several labels an image, the
    same probabilities for all, whose average precision is the class's share of the images.
    Detection: nothing, ever. A training beats it if it beats any one of these: with rare classes a
    good model may have no more accuracy.
    """
    if store.info.task == "detection":
        return {"val/map": 0.0}
    if store.info.multi_label:
        labels = np.array([store.label_vector(row) for row in store.rows("val")])
        shares = labels.mean(axis=0) if len(labels) else np.zeros(0)
        return {"val/map": float(shares[shares > 0].mean())} if shares.any() else {}
    train = [store.label(row) for row in store.rows("train")]
    val = np.array([store.label(row) for row in store.rows("val")])
    if not train or not len(val):
        return {}
    frequent = np.bincount(train).argmax()
    share = float((val == frequent).mean())
    # Macro F1 is over the classes there are and the one predicted; all but that one have 0.
    num_classes = len(np.union1d(val, [frequent]))
    return {"val/accuracy": share, "val/f1": 2 * share / (1 + share) / num_classes}


class BeatsTrivial(Callback):
    """Whether some epoch was better than the trivial model.

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
