"""The base of every settings class: frozen, and a key it does not know is an error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen section of parameters; fields carry a description, a unit and bounds."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
