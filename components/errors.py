"""Every error a user can cause, and nothing else.

    TimmflowError
    ├── ParamsError      params.yaml: a key, a type, a bound, a combination
    ├── DataError        the raw data, or what an earlier stage made of it
    ├── ModelError       a backbone, a weights file, settings that do not fit the weights
    ├── TrainingError    a training that cannot go on, or that learnt nothing
    ├── ExportError      an ONNX file that does not do what the PyTorch model does
    ├── RegistryError    a model version that cannot be registered, found or moved
    ├── RepositoryError  git or DVC, which ended with an error
    └── WriteError       no room on the disk, or no permission

A message names the file, the field, the value and what would be accepted. Commands print it alone,
without a traceback, and exit with 1. Anything that is not a `TimmflowError` is a defect of timmflow
and keeps its traceback.
"""


class TimmflowError(Exception):
    """Base of all errors that a user can cause and mend."""


class ParamsError(TimmflowError):
    """A parameter file that cannot be used."""


class DataError(TimmflowError):
    """Data that cannot be read, or that breaks the data contract."""


class ModelError(TimmflowError):
    """A model that cannot be built or whose weights cannot be loaded."""


class TrainingError(TimmflowError):
    """A training that cannot go on, or that learnt nothing."""


class ExportError(TimmflowError):
    """An exported file that is not equal to the model it came from."""


class RegistryError(TimmflowError):
    """A model version that cannot be registered, found or moved to a stage."""


class RepositoryError(TimmflowError):
    """A command of git or DVC that ended with an error."""


class WriteError(TimmflowError):
    """A file that cannot be written: the disk is full, or refuses."""
