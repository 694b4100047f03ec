"""The average of the best epochs' weights, where that is at least as good as the best one alone.

A greedy soup (Wortsman et al. 2022, arXiv:2203.05482, recipe 1) over epochs of one training, as
AutoGluon does it over three: start with the best epoch; try each next one, the better first, in an
average with those that are in; keep it in if the validation figure does not fall. So the outcome
never has a lower figure than the best epoch.

Statistics of batch norm are those of the averaged weights, measured on training images: an average
of the epochs' statistics would be of activations that the averaged network does not have (Izmailov
et al. 2018, arXiv:1803.05407, section 3.2). Some thousand images are enough (Wu and Johnson 2021,
arXiv:2105.07576, section 3.2). Frozen ones stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from components.data.loaders import PreparedDataModule
from components.models.processes import num_processes
from components.models.vision_module import VisionModule
from components.training.callbacks import Kept, network_copy
from components.training.checkpoints import Weights
from components.training.resume import StopRequest

_NORM_IMAGES = 2048


@dataclass(frozen=True)
class Average:
    """The weights that a training ends with.

    Attributes:
        weights: of the network.
        value: the monitored figure that they have.
        epochs: whose average they are, from 1, the best first.
        tried: epoch and figure of all that were candidates, likewise.
    """

    weights: Weights
    value: float
    epochs: tuple[int, ...]
    tried: tuple[tuple[int, float], ...]

    @property
    def figures(self) -> dict[str, Any]:
        """All but the weights, for a checkpoint."""
        tried = [list(each) for each in self.tried]
        return {"value": self.value, "epochs": list(self.epochs), "tried": tried}

    @classmethod
    def loaded(cls, weights: Weights, figures: dict[str, Any]) -> Average:
        """From a checkpoint."""
        tried = tuple((epoch, value) for epoch, value in figures["tried"])
        return cls(weights, figures["value"], tuple(figures["epochs"]), tried)

    def text(self, monitor: str) -> str:
        """What was chosen, and why; empty where there was no choice."""
        if len(self.tried) < 2:
            return ""
        (best, alone), *_ = self.tried
        if len(self.epochs) == 1:
            others = _listed([epoch for epoch, _ in self.tried[1:]])
            return (
                f"weights: of epoch {best} alone, {monitor} {alone:.4f}; an average with {others} "
                "is not as good"
            )
        return (
            f"weights: the average of epochs {_listed(self.epochs)}, {monitor} {self.value:.4f}; "
            f"epoch {best} alone has {alone:.4f}"
        )


def mean_weights(states: Sequence[Weights]) -> Weights:
    """The mean of several networks' weights, by name; what is not a float is the first one's."""
    first = states[0]
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for name, value in first.items()
    }


def greedy_soup(
    kept: Sequence[Kept], measured: Callable[[Weights], tuple[float, Weights]]
) -> Average:
    """The average of those epochs that do not lower the figure.

    Args:
        kept: the candidates, the best first; at least one.
        measured: the figure that weights have (higher is better), and the weights with the
            statistics that go with them.
    """
    tried = tuple((each.epoch, each.value) for each in kept)
    chosen = Average(kept[0].weights, kept[0].value, (kept[0].epoch,), tried)
    inside = [kept[0]]
    for candidate in kept[1:]:
        together = [*inside, candidate]
        value, weights = measured(mean_weights([each.weights for each in together]))
        if value >= chosen.value:
            inside = together
            chosen = Average(weights, value, tuple(each.epoch for each in inside), tried)
    return chosen


def average_of_best(
    trainer: Trainer,
    module: VisionModule,
    data: PreparedDataModule,
    kept: Sequence[Kept],
    monitor: str,
    stop: StopRequest,
) -> Average:
    """The greedy soup of a training's best epochs, each average validated as an epoch is.

    Args:
        trainer: that has trained, or would have; in all its processes.
        module: whose network gets the weights that are tried.
        data: its batches.
        kept: its best epochs, the best first.
        monitor: the logged figure.
        stop: looked at after each batch.

    Raises:
        SystemExit: a signal came.
    """

    def measured(weights: Weights) -> tuple[float, Weights]:
        module.network.load_state_dict(weights)
        figures = trainer.validate(module, datamodule=data, verbose=False)[0]
        return float(figures[monitor]), network_copy(module)

    trainer.validate_loop.inference_mode = False  # weights that it made could not be trained
    callbacks, trainer.callbacks = trainer.callbacks, [_FreshNorms(data, stop)]  # type: ignore[attr-defined]
    try:
        # Not worth compiling; and one that goes on here has not compiled the network.
        with torch.compiler.set_stance("force_eager"):
            # Where nothing has been found, averages of nothing are as good as anything.
            return greedy_soup(kept if kept[0].value > 0 else kept[:1], measured)
    finally:
        trainer.callbacks = callbacks  # type: ignore[attr-defined]


class _FreshNorms(Callback):
    """Measures the statistics of batch norm anew before a validation, and minds the signals."""

    def __init__(self, data: PreparedDataModule, stop: StopRequest):
        self.data = data
        self.stop = stop

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure on the training images, as the last epoch shows them."""
        self.stop.take_over(trainer)
        network = cast(nn.Module, pl_module.network)
        norms = _learning_norms(pl_module, network)
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
        # Of all images in each process, so that all have the same statistics.
        loader = self.data.loader("train", train=True)
        loader.sampler.set_epoch((trainer.max_epochs or 1) - 1)  # type: ignore[attr-defined]
        seen = 0
        for batch in loader:
            self._end_if_asked()
            images: Tensor = trainer.strategy.batch_to_device(batch)["images"]
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                network(images)
            seen += len(images)
            if seen >= _NORM_IMAGES:
                break
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """A signal ends it. Of several processes each has its own number of batches."""
        if num_processes() == 1:
            self._end_if_asked()

    def _end_if_asked(self) -> None:
        if self.stop.agree(False):
            self.stop.end("while averaging the best epochs; the last checkpoint stays")


def _learning_norms(module: LightningModule, network: nn.Module) -> list[_BatchNorm]:
    """Those whose statistics follow the batches in training: a frozen backbone's do not."""
    module.train()
    found = [
        part
        for part in network.modules()
        if isinstance(part, _BatchNorm) and part.training and part.track_running_stats
    ]
    module.eval()
    return found


def _listed(epochs: Sequence[int]) -> str:
    *first, last = map(str, epochs)
    return f"{', '.join(first)} and {last}" if first else last
