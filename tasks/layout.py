"""Where each stage finds its inputs and leaves its outputs, relative to the repository's root.

The same paths stand in `dvc.yaml`; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STAGES = ("validate", "preprocess", "train", "evaluate", "export", "report")


@dataclass(frozen=True)
class Layout:
    """The paths of one working copy.

    Args:
        root: the repository's root.
    """

    root: Path = Path()

    def metrics(self, stage: str) -> Path:
        """A stage's figures: one flat JSON object."""
        return self.root / "metrics" / f"{stage}.json"

    @property
    def tables(self) -> Path:
        """Canonical tables: `images.parquet`, `objects.parquet`, `dataset.json`."""
        return self.root / "data" / "tables"

    @property
    def facts(self) -> Path:
        """What the last validation learnt from each image's pixels."""
        return self.root / "data" / "facts.parquet"

    @property
    def prepared(self) -> Path:
        """Packed images and boxes in training size."""
        return self.root / "data" / "prepared"

    @property
    def weights(self) -> Path:
        """`weights.safetensors`, the best ones, and `model.json`, which rebuilds the network."""
        return self.root / "models" / "trained"

    @property
    def onnx(self) -> Path:
        """The self-sufficient model file."""
        return self.root / "models" / "model.onnx"

    @property
    def formats(self) -> Path:
        """Other files of the model, those that passed, and `formats.json`, which lists them."""
        return self.root / "models" / "formats"

    @property
    def export_details(self) -> Path:
        """What was found out about each of these files, published or not."""
        return self.root / "reports" / "export.json"

    @property
    def resume(self) -> Path:
        """Checkpoints of unfinished trainings; outside DVC on purpose."""
        return self.root / ".resume"

    @property
    def plots(self) -> Path:
        """Small CSV and JSON files that `dvc plots` draws."""
        return self.root / "plots"

    @property
    def validation(self) -> Path:
        """All findings, as JSON."""
        return self.root / "reports" / "validation.json"

    @property
    def validation_page(self) -> Path:
        """All findings, for people."""
        return self.root / "reports" / "validation.html"

    @property
    def profile(self) -> Path:
        """What the data is like, to compare later data with."""
        return self.root / "reports" / "profile.json"

    @property
    def accepted(self) -> Path:
        """The same about the data that was last accepted; in git."""
        return self.root / "accepted" / "profile.json"

    @property
    def accepted_splits(self) -> Path:
        """The splits that were drawn for that data, and stay; in git."""
        return self.root / "accepted" / "splits.csv"

    @property
    def evaluation(self) -> Path:
        """What the report page shows of the evaluation: `details.json` and pictures."""
        return self.root / "reports" / "evaluation"

    @property
    def retraining(self) -> Path:
        """What a retraining tells of itself, in its own worktree: champion, merged and refused."""
        return self.root / ".dvc" / "tmp" / "retraining.json"

    @property
    def verdict(self) -> Path:
        """What the gate found and decided."""
        return self.root / "reports" / "verdict.json"

    @property
    def page(self) -> Path:
        """The page to review."""
        return self.root / "reports" / "index.html"

    @property
    def model_card(self) -> Path:
        """What the model is for, how good it is, and where it fails: Markdown."""
        return self.root / "reports" / "model_card.md"
