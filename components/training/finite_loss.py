"""A loss or a gradient that is not finite: stop, say what gave it, and keep the step for replay.

The check comes before the optimizer's step, while the weights are still those that gave the loss;
what batch norms have taken in of the step is taken back. The file holds tensors and numbers only:
`{"batch", "weights", "rng", "precision", "epoch", "step"}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from components.errors import DataError, TrainingError
from components.files import atomic_path
from components.models.processes import alone, gathered, largest
from components.models.vision_module import VisionModule
from components.training.precision import arithmetic

_REMEDIES = {
    "images": "look for broken images among those that the replay names",
    "weight": "lower train.lr, or raise train.warmup_epochs",
    "layer": "lower train.lr, or set train.gradient_clip",
    "loss": "lower train.lr, or raise train.warmup_epochs",
    "gradient": "lower train.lr, or take train.precision: 32-true",
}


@dataclass(frozen=True)
class Diagnosis:
    """Where a step stopped being finite.

    Attributes:
        kind: `images`, `weight`, `layer`, `loss`, `gradient`, or empty where all is finite.
        name: of the weight, the layer or the term of the loss. Of gradients the one nearest to the
            loss is named, since those behind it are made from it.
        losses: terms of the loss and `loss`; empty where the step did not get so far.
    """

    kind: str
    name: str
    losses: dict[str, float]

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
        where = {
            "images": "the input images are not finite",
            "weight": f"first not finite: weight {self.name}",
            "layer": f"first not finite: output of {self.name}",
            "loss": f"first not finite: {self.name}",
            "gradient": f"first not finite: gradient of {self.name}",
        }.get(self.kind, "all is finite here")
        return f"{where} ({shown})" if shown else where

    @property
    def remedy(self) -> str:
        """What to change."""
        return _REMEDIES.get(self.kind, "lower train.lr")


class FiniteLoss(Callback):
    """Stops a training whose loss or gradient is not a number any more.

    Args:
        path: file for the batch and the weights of that step; of a process after the first with
            its rank before the suffix.
    """

    def __init__(self, path: Path):
        self.path = path
        self._batch: Any = None
        self._step = 0
        self._rng = torch.empty(0)
        self._loss = torch.empty(0)
        self._statistics: list[Tensor] = []
        self._before: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make room for what batch norms know before a step."""
        assert isinstance(pl_module, VisionModule)
        self._statistics = list(pl_module.network.buffers())
        self._before = [buffer.clone() for buffer in self._statistics]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember what the step starts from."""
        self._batch, self._step, self._rng = batch, batch_idx + 1, torch.get_rng_state()
        if self._before:
            torch._foreach_copy_(self._before, self._statistics)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Remember the loss."""
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the loss and the gradients of the step, in all processes.

        Both at once: each look waits for the GPU.
        """
        number, scaler = self._loss, getattr(trainer.precision_plugin, "scaler", None)
        if scaler is None:
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            number = number + torch.nn.utils.get_total_norm(grads)
        finite = bool(torch.isfinite(number))
        if scaler is not None and finite:
            # A gradient that overflows in float16 is the scaler's to deal with, by a smaller scale;
            # one that overflows without any scale is broken.
            finite = scaler.get_scale() >= 1
        if largest(0 if finite else 1):
            self._stop(trainer, pl_module)

    def _stop(self, trainer: Trainer, module: LightningModule) -> None:
        """Find the process and the part that are at fault, keep its step, and say so."""
        assert isinstance(module, VisionModule)
        precision, rank = str(trainer.precision), trainer.global_rank
        self._take_back()
        with alone():  # a process may find its fault before it would meet the others
            own = diagnose(module, self._batch, self._rng, precision)
        self._take_back()
        found = gathered(own)
        culprit = next((number for number, each in enumerate(found) if each.kind), 0)
        path = self.path.with_suffix(f".{culprit}{self.path.suffix}") if culprit else self.path
        if rank == culprit:
            kept = {
                "batch": self._batch,
                "weights": module.network.state_dict(),
                "rng": self._rng,
                "precision": precision,
                "epoch": trainer.current_epoch + 1,
                "step": self._step,
            }
            with atomic_path(path) as draft:
                torch.save(kept, draft)
        losses = gathered(self._loss.item())
        if rank:
            raise SystemExit(0)  # the first says it
        loss = losses[culprit]
        what = f"the loss is {loss}"
        if math.isfinite(loss):
            what = "a gradient is not finite" if found[culprit].kind else "the gradients overflow"
        where = f" in process {culprit + 1} of {trainer.world_size}" if culprit else ""
        raise TrainingError(
            f"{what}{where} at epoch {trainer.current_epoch + 1}, step {self._step}; "
            f"{found[culprit]}: {found[culprit].remedy}. The step is kept: "
            f"python -m tasks.replay {path}"
        )

    def _take_back(self) -> None:
        """Give batch norms what they knew before the step."""
        with torch.no_grad():
            if self._before:
                torch._foreach_copy_(self._statistics, self._before)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let go of the batch."""
        self._batch = None


def diagnose(
    module: VisionModule, batch: dict[str, Any], rng: Tensor, precision: str = "32-true"
) -> Diagnosis:
    """Run a training step again and find the first thing that is not finite.

    Args:
        module: in training mode, with the weights of the step; batch-norm statistics change.
        batch: as the step got it.
        rng: state of torch's CPU generator before the step.
        precision: Lightning's name of the arithmetic.
    """
    if not torch.isfinite(batch["images"]).all():
        return Diagnosis("images", "", {})
    for name, weight in module.network.named_parameters():
        if not torch.isfinite(weight).all():
            return Diagnosis("weight", name, {})
    with torch.random.fork_rng(devices=[]), _watched(module.network) as layers:
        torch.default_generator.set_state(rng.cpu())
        with arithmetic(precision, batch["images"].device.type):
            terms = module.model_step(batch)
    losses = {name: value.item() for name, value in terms.items()}
    if layers:
        return Diagnosis("layer", layers[0], losses)
    for name, value in terms.items():
        if name != "loss" and not torch.isfinite(value):
            return Diagnosis("loss", name, losses)
    if not torch.isfinite(terms["loss"]):
        return Diagnosis("loss", "loss", losses)
    weights = {n: p for n, p in module.network.named_parameters() if p.requires_grad}
    # Not `backward`: it would call on the other processes of a training.
    grads = torch.autograd.grad(terms["loss"], list(weights.values()), allow_unused=True)
    for name, grad in reversed(list(zip(weights, grads, strict=True))):
        if grad is not None and not torch.isfinite(grad).all():
            return Diagnosis("gradient", name, losses)
    return Diagnosis("", "", losses)


@contextmanager
def _watched(network: nn.Module) -> Iterator[list[str]]:
    """Names of the layers whose output is not finite, in the order they ran."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name)

        return hook

    handles = [
        layer.register_forward_hook(watch(name)) for name, layer in network.named_modules() if name
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Replay:
    """A step that was kept, run again.

    Attributes:
        found: where it stops being finite.
        epoch, step: from 1.
        rows: the images' positions in the prepared store; empty where the batch has none.
        losses_alone: loss of each image by itself; NaN or infinite where that image is at fault.
    """

    found: Diagnosis
    epoch: int
    step: int
    rows: list[int]
    losses_alone: list[float]


def replay(module: VisionModule, path: Path) -> Replay:
    """Run a step again that `FiniteLoss` has kept, on the CPU.

    Args:
        module: of the same parameters; takes the weights of the step.

    Raises:
        DataError: the file cannot be read, or is of another network.
    """
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        module.network.load_state_dict(kept["weights"])
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # noqa: BLE001 - torch's unpickler raises anything
        raise DataError(
            f"{path}: not a step of a training with these parameters: {error}"
        ) from None
    module.freeze_as_in(kept["epoch"] - 1)
    module.train()
    batch, rng, precision = kept["batch"], kept["rng"], kept["precision"]
    found = diagnose(module, batch, rng, precision)
    module.network.load_state_dict(kept["weights"])
    module.eval()  # a batch of one has no statistics of its own
    alone = []
    for number in range(len(batch["images"])):
        one = {
            name: value[number : number + 1] if isinstance(value, Tensor | list) else value
            for name, value in batch.items()
        }
        with torch.no_grad():
            alone.append(float(module.model_step(one)["loss"]))
    rows = batch.get("rows")
    return Replay(found, kept["epoch"], kept["step"], [] if rows is None else rows.tolist(), alone)
