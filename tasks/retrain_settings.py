"""Parameters of retraining."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.settings import Settings

# Steps that work for long, or wait for others; sending to W&B has `publish_seconds`.
LimitedStep = Literal[
    "fetch",
    "finish",
    "data",
    "validate",
    "preprocess",
    "train",
    "evaluate",
    "export",
    "report",
    "gate",
    "push",
    "register",
    "promote",
    "share",
]


class RetrainSettings(Settings):
    """What `python -m flows.retrain` does beside running the stages."""

    promote: Literal["automatic", "review"] = Field(
        "automatic",
        description="automatic: what the gate lets pass goes into production; review: it becomes a "
        "version, and `python -m tasks.registry promote` decides",
    )
    branch: str = Field(
        "retrain",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9/_-]*$",
        description="git branch for its commits; none that is checked out",
    )
    git_remote: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the git remote by which several machines retrain one model, such as "
        "origin: what the others have done is fetched first, and commits and tags are pushed to it",
    )
    incoming: str = Field(
        "data/incoming", min_length=1, description="folder of new batches, a folder each"
    )
    publish_seconds: int = Field(
        300, ge=0, description="longest time for sending runs to W&B at the end; 0: not at all"
    )
    timeouts: dict[LimitedStep, Annotated[float, Field(gt=0)]] = Field(
        {},
        description="longest minutes of a step, such as {train: 600, push: 30}, after which it is "
        "ended and the retraining fails; others have no limit",
    )
