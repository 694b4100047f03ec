"""Lightning's experiment loggers by name, as AutoTimm names them. None is imported unasked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch.loggers as lightning_loggers
from lightning.pytorch.loggers import Logger

# Class by name, and the parameter that must be given.
_BACKENDS = {
    "tensorboard": ("TensorBoardLogger", "save_dir"),
    "mlflow": ("MLFlowLogger", "experiment_name"),
    "wandb": ("WandbLogger", "project"),
    "csv": ("CSVLogger", "save_dir"),
}


@dataclass
class LoggerConfig:
    """One logger.

    Attributes:
        backend: `tensorboard`, `csv`, `wandb` or `mlflow`; the package must be installed.
        params: of the logger's constructor.

    Raises:
        ValueError: the backend is not one of these.
    """

    backend: str
    params: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.backend = self.backend.lower()
        if self.backend not in _BACKENDS:
            raise ValueError(f"backend = {self.backend!r}: allowed: {', '.join(_BACKENDS)}")

    def create(self) -> Logger:
        """The logger.

        Raises:
            ValueError: a parameter is missing.
        """
        name, needed = _BACKENDS[self.backend]
        if needed not in self.params:
            raise ValueError(f"params of the {self.backend} logger: {needed} is missing")
        return getattr(lightning_loggers, name)(**self.params)


class LoggerManager:
    """Loggers made from configurations, in order.

    Raises:
        ValueError: there is no configuration.
    """

    def __init__(self, configs: Sequence[LoggerConfig]):
        if not configs:
            raise ValueError("configs = []: at least one LoggerConfig is needed")
        self.configs = list(configs)
        self.loggers = [config.create() for config in self.configs]

    def __len__(self) -> int:
        return len(self.loggers)

    def __iter__(self) -> Iterator[Logger]:
        return iter(self.loggers)

    def __getitem__(self, index: int) -> Logger:
        return self.loggers[index]

    def get_logger_by_backend(self, backend: str) -> Logger | None:
        """The first logger of a backend; None if there is none."""
        for config, logger in zip(self.configs, self.loggers, strict=True):
            if config.backend == backend.lower():
                return logger
        return None


def resolve_loggers(given: Any, folder: str | Path) -> Any:
    """What Lightning's `Trainer` takes as `logger`.

    Args:
        given: a bool, a logger, a `LoggerManager`, a `LoggerConfig`, a backend's name, or a list of
            these but for the bool.
        folder: where a logger that is given by name alone writes.
    """
    if isinstance(given, LoggerManager):
        return given.loggers
    if isinstance(given, LoggerConfig):
        return given.create()
    if isinstance(given, str):
        params = {_BACKENDS[given][1]: "timmflow"} if given in ("wandb", "mlflow") else {}
        return LoggerConfig(given, {"save_dir": str(folder), **params}).create()
    if isinstance(given, list | tuple):
        return [resolve_loggers(item, folder) for item in given]
    return given
