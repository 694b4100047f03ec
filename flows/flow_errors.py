"""What a flow can fail of, beside its own defects.

TimmflowError
└── FlowError         a workspace that cannot be used, a server that does not start
    └── StageFailed   a stage that ended with an error; carries what it said
"""

from __future__ import annotations

from components.errors import TimmflowError


class FlowError(TimmflowError):
    """A flow that cannot do its work."""


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
        self.reason = reason
        self.seconds = seconds

    def __reduce__(self) -> tuple[type[StageFailed], tuple[str, str, float]]:
        # Exceptions are pickled by their `args`, which hold the message alone.
        return type(self), (self.stage, self.reason, self.seconds)
