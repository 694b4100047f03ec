"""What a flow can fail of, beside its own defects.

TimmflowError
└── FlowError         a workspace that cannot be used, a server that does not start
    └── StageFailed   a stage that ended with an error; carries what it said
"""

from __future__ import annotations

import os
from typing import TypeVar

from components.errors import TimmflowError
from components.hidden import hidden, secrets_of

T = TypeVar("T")


def masked(value: T) -> T:
    """A text, or nested mappings and lists, without the secrets of this process's environment.

    For all that a flow says: logs, states and artifacts at Prefect's server, messages, commits.
    """
    shown: T = hidden(value, secrets_of(os.environ))
    return shown


class FlowError(TimmflowError):
    """A flow that cannot do its work.

    Args:
        message: what it says, to a person, to Prefect's server and in messages: without secrets.
    """

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


def as_flow_error(error: TimmflowError) -> FlowError:
    """An error as a flow ends with it: without secrets, whoever has raised it.

    git and DVC quote addresses, and parameters that do not fit are quoted with their values.
    """
    return error if isinstance(error, FlowError) else FlowError(str(error))


class StageFailed(FlowError):
    """A stage that ended with an error.

    Args:
        stage: its name.
        reason: what it said: its `error:` line, or its last lines.
        seconds: how long it took to fail.
    """

    def __init__(self, stage: str, reason: str, seconds: float) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage = stage
        self.reason = masked(reason)
        self.seconds = seconds

    def __reduce__(self) -> tuple[type[StageFailed], tuple[str, str, float]]:
        # Exceptions are pickled by their `args`, which hold the message alone.
        return type(self), (self.stage, self.reason, self.seconds)
