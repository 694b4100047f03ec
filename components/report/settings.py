"""Parameters of the `report` stage."""

from __future__ import annotations

from pydantic import Field

from components.settings import Settings


class ReportSettings(Settings):
    """The page to review."""

    title: str = Field("timmflow run", min_length=1, max_length=120, description="its headline")
