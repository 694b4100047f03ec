"""Metrics and logging described by plain data, and the torchmetrics objects made from it."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Self

import torch
from torch import nn
from torchmetrics import Metric

from components.models.processes import gathered, num_processes

BACKENDS = ("torchmetrics", "custom")
STAGES = ("train", "val", "test")
VERBOSITIES = (0, 1, 2)
# Where a torchmetrics name is looked for, in this order. The top module comes last: it lacks the
# concrete classes of a task, and some of its names are deprecated wrappers.
_TORCHMETRICS_MODULES = (
    "torchmetrics.classification",
    "torchmetrics.detection",
    "torchmetrics.segmentation",
    "torchmetrics",
)


@dataclass(frozen=True)
class MetricConfig:
    """One metric, in the stages it is measured in. Plain data: a checkpoint can hold it.

    Attributes:
        name: what it is logged as, after the stage: `val/<name>`.
        backend: `torchmetrics`, or `custom` for a class of the user's own.
        metric_class: a name in torchmetrics (`Accuracy`, `MulticlassF1Score`,
            `MeanAveragePrecision`), or for `custom` the dotted path of a `torchmetrics.Metric`.
        params: of its constructor; `num_classes` and `num_labels` need not be given.
        stages: any of `train`, `val`, `test`.
        log_on_step: log, at each step, the value over the epoch so far.
        log_on_epoch: log the value over the whole epoch.
        prog_bar: show it in the progress bar.

    Raises:
        ValueError: a field that cannot be used; says which, its value and what is allowed.
    """

    name: str
    backend: str
    metric_class: str
    params: dict[str, Any]
    stages: list[str]
    log_on_step: bool = False
    log_on_epoch: bool = True
    prog_bar: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name)
        backend = str(self.backend).lower()
        if backend not in BACKENDS:
            raise ValueError(f"backend = {self.backend!r}; allowed: {', '.join(BACKENDS)}")
        if not isinstance(self.metric_class, str) or not self.metric_class:
            raise ValueError(f"metric_class = {self.metric_class!r}; must be the name of a class")
        if backend == "custom" and "." not in self.metric_class.strip("."):
            raise ValueError(
                f"metric_class = {self.metric_class!r}; backend 'custom' needs the dotted path of "
                "a class, such as 'mypackage.metrics.MyMetric'"
            )
        if not isinstance(self.params, dict):
            raise ValueError(f"params = {self.params!r}; must be a dict of constructor arguments")
        _check_plain(self.params, "params")
        for switch in ("log_on_step", "log_on_epoch", "prog_bar"):
            _check_switch(switch, getattr(self, switch))
        # Frozen, so set past the guard: lower case, and copies that the caller cannot change.
        object.__setattr__(self, "backend", backend)
        object.__setattr__(self, "params", copy.deepcopy(self.params))
        object.__setattr__(self, "stages", _checked_stages(self.stages))

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The opposite of `to_dict`; an unknown key is a `ValueError`."""
        return _from_dict(cls, values)


@dataclass(frozen=True)
class LoggingConfig:
    """What is logged beside losses and metrics. Plain data: a checkpoint can hold it.

    Attributes:
        log_learning_rate: as `train/lr`, each step.
        log_gradient_norm: L2 norm over all gradients, as `train/grad_norm`.
        log_weight_norm: L2 norm over all weights, as `train/weight_norm`.
        log_confusion_matrix: of the validation split, as a picture `val/confusion_matrix`.
        log_predictions: pictures of the validation split with what was predicted.
        predictions_per_epoch: number of these pictures.
        verbosity: 0 little, 1 normal, 2 all.

    Raises:
        ValueError: a field that cannot be used; says which, its value and what is allowed.
    """

    log_learning_rate: bool
    log_gradient_norm: bool
    log_weight_norm: bool = False
    log_confusion_matrix: bool = False
    log_predictions: bool = False
    predictions_per_epoch: int = 8
    verbosity: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name.startswith("log_"):
                _check_switch(field.name, getattr(self, field.name))
        count = self.predictions_per_epoch
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"predictions_per_epoch = {count!r}; must be a whole number >= 0")
        if isinstance(self.verbosity, bool) or self.verbosity not in VERBOSITIES:
            raise ValueError(f"verbosity = {self.verbosity!r}; allowed: 0, 1, 2")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The opposite of `to_dict`; an unknown key is a `ValueError`."""
        return _from_dict(cls, values)


class MetricManager:
    """The metrics of a model in each stage, made from their configs.

    Args:
        configs: at least one; names differ within a stage.
        num_classes: C; handed to every constructor that takes `num_classes` or `num_labels`
            and was not given it.

    Raises:
        ValueError: no configs, a name twice in a stage, an unknown class, or arguments that its
            constructor refuses; names the metric.

    Iterating, indexing and `len` are over the configs.
    """

    def __init__(self, configs: Iterable[MetricConfig], num_classes: int):
        self.configs = list(configs)
        self.num_classes = num_classes
        if not self.configs:
            raise ValueError("configs is empty; at least one MetricConfig is needed")
        for config in self.configs:
            if not isinstance(config, MetricConfig):
                raise ValueError(f"configs holds {config!r}; allowed: MetricConfig")
        if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
            raise ValueError(f"num_classes = {num_classes!r}; must be a whole number >= 1")
        self._by_stage: dict[str, dict[str, tuple[Metric, MetricConfig]]] = {}
        for stage in STAGES:
            made = self._by_stage[stage] = {}
            for config in self.configs:
                if stage not in config.stages:
                    continue
                if config.name in made:
                    raise ValueError(f"two metrics of stage {stage!r} are named {config.name!r}")
                made[config.name] = (create_metric(config, num_classes), config)

    def get_train_metrics(self) -> nn.ModuleDict:
        """The training metrics by name; the same objects at each call."""
        return self._metrics("train")

    def get_val_metrics(self) -> nn.ModuleDict:
        """The validation metrics by name; the same objects at each call."""
        return self._metrics("val")

    def get_test_metrics(self) -> nn.ModuleDict:
        """The test metrics by name; the same objects at each call."""
        return self._metrics("test")

    def _metrics(self, stage: str) -> nn.ModuleDict:
        return nn.ModuleDict({name: metric for name, (metric, _) in self._by_stage[stage].items()})

    def get_metric_config(self, stage: str, name: str) -> MetricConfig | None:
        """The config behind metric `name` of `stage`; None if that stage has none such."""
        found = self._by_stage[_checked_stage(stage)].get(name)
        return found and found[1]

    def get_metric_by_name(self, name: str, stage: str | None = None) -> Metric | None:
        """The metric itself; without a stage the first of val, train, test that has it."""
        for where in ("val", "train", "test") if stage is None else (_checked_stage(stage),):
            if name in self._by_stage[where]:
                return self._by_stage[where][name][0]
        return None

    def get_config_by_name(self, name: str) -> MetricConfig | None:
        """The first config of that name, whatever its stages."""
        return next((config for config in self.configs if config.name == name), None)

    def __len__(self) -> int:
        return len(self.configs)

    def __iter__(self) -> Iterator[MetricConfig]:
        return iter(self.configs)

    def __getitem__(self, index: int) -> MetricConfig:
        return self.configs[index]

    def to_dict(self) -> dict[str, Any]:
        """What rebuilds the manager, as plain data; the metrics' states are not in it."""
        return {
            "configs": [config.to_dict() for config in self.configs],
            "num_classes": self.num_classes,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The opposite of `to_dict`, with fresh metrics."""
        configs = [MetricConfig.from_dict(config) for config in values["configs"]]
        return cls(configs, values["num_classes"])


def computed(metric: Metric, everywhere: bool = True) -> Any:
    """A metric's value.

    torchmetrics lets processes wait for one another image by image, so it needs as many images in
    each; here each may have seen any number.

    Args:
        metric: all that it was shown stays in it, and with several processes and `everywhere` what
            the others were shown is added.
        everywhere: over all processes, each of which must call this; else over this one.
    """
    if num_processes() == 1:
        return metric.compute()
    metric.compute_with_cache = False
    lists = {name: state for name, state in metric.metric_state.items() if isinstance(state, list)}
    metric.sync_on_compute = everywhere and not lists
    if lists and everywhere:
        states = gathered(
            {
                name: [item.cpu() for item in state] if isinstance(state, list) else state.cpu()
                for name, state in metric.metric_state.items()
            }
        )
        for name in states[0]:
            parts = [state[name] for state in states]
            setattr(metric, name, _joined(parts, metric._reductions[name], metric.device))
    return metric.compute()


def _joined(parts: list[Any], reduction: Any, device: torch.device) -> Any:
    """A state over all processes: lists one behind the other, tensors as the metric has it."""
    if isinstance(parts[0], list):
        return [item.to(device) for part in parts for item in part]
    together = torch.stack(parts).to(device)
    return together if reduction is None else reduction(together)


def create_metric(config: MetricConfig, num_classes: int) -> Metric:
    """A fresh metric.

    Args:
        config: which one.
        num_classes: given to its constructor as `num_classes` and `num_labels`, where it takes
            them and the config does not say otherwise.

    Raises:
        ValueError: no such class, or its constructor refuses the arguments; names the metric.
    """
    where = f"metric {config.name!r}"
    if config.backend == "torchmetrics":
        constructor = _torchmetrics_class(config.metric_class, where)
    else:
        constructor = _custom_class(config.metric_class, where)
    taken = inspect.signature(constructor).parameters
    params: dict[str, Any] = dict.fromkeys({"num_classes", "num_labels"} & set(taken), num_classes)
    is_map = config.metric_class == "MeanAveragePrecision" and config.backend == "torchmetrics"
    if is_map:
        params["backend"] = "faster_coco_eval"
    try:
        metric = constructor(**(params | copy.deepcopy(config.params)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {config.metric_class} refuses its params: {error}") from error
    if not isinstance(metric, Metric):
        raise ValueError(f"{where}: {config.metric_class} is not a torchmetrics.Metric")
    if is_map:
        # The cap of 100 detections an image is the metric's own; a warning of it tells nothing.
        metric.warn_on_many_detections = False
    return metric


def _torchmetrics_class(name: str, where: str) -> Callable[..., Any]:
    known = {}
    for path in reversed(_TORCHMETRICS_MODULES):
        for key, value in vars(import_module(path)).items():
            if inspect.isclass(value) and issubclass(value, Metric) and not key.startswith("_"):
                known[key] = value
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=5)) or "none"
        raise ValueError(f"{where}: torchmetrics has no metric {name!r}; nearest: {near}")
    return known[name]


def _custom_class(path: str, where: str) -> Callable[..., Any]:
    module_name, _, name = path.rpartition(".")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{where}: metric_class = {path!r}: {error}") from error
    if not callable(found := getattr(module, name, None)):
        raise ValueError(f"{where}: metric_class = {path!r}: {module_name} has no class {name!r}")
    return found


def _from_dict(cls: Any, values: dict[str, Any]) -> Any:
    known = [field.name for field in dataclasses.fields(cls)]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(
            f"{cls.__name__} has no field {', '.join(unknown)}; allowed: {', '.join(known)}"
        )
    return cls(**values)


def _check_name(name: str) -> None:
    # `nn.ModuleDict` holds the metrics by name: it takes no dot, and none of its own methods.
    if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"name = {name!r}; must be a non-empty text without a dot that is not an attribute of "
            "nn.ModuleDict"
        )


def _check_switch(field: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{field} = {value!r}; allowed: True, False")


def _checked_stage(stage: object) -> str:
    if not isinstance(stage, str) or stage.lower() not in STAGES:
        raise ValueError(f"stage = {stage!r}; allowed: {', '.join(STAGES)}")
    return stage.lower()


def _checked_stages(stages: object) -> list[str]:
    if not isinstance(stages, list | tuple) or not stages:
        raise ValueError(f"stages = {stages!r}; must be a list of {', '.join(STAGES)}")
    return list(dict.fromkeys(_checked_stage(stage) for stage in stages))


def _check_plain(value: object, path: str) -> None:
    """A checkpoint that is read safely holds nothing else."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{path} has the key {key!r}; keys are texts")
            _check_plain(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{path}[{index}]")
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(
            f"{path} = {value!r}; allowed: numbers, texts, None, and lists and dicts of these"
        )
