"""What becomes of a batch whose merging ends badly: the batch's fault, or not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.files import write_json
from flows.dvc_stage import StageOutput
from flows.flow_errors import FlowError
from flows.progress import OnLine
from flows.retrain_data import DataSteps


class Ending(DataSteps):
    """Merging ends with `status`, after having written a report with `verdict`."""

    status = 0
    verdict = ""
    reason = ""

    def python(self, words: list[str], on_line: OnLine) -> tuple[int, StageOutput]:
        if self.verdict:
            report = {"verdict": self.verdict, "reason": self.reason, "findings": []}
            write_json(self.tree / "reports/incoming/new.json", report)
        output = StageOutput("incoming")
        output.add("error: incoming: something")
        return self.status, output


def merging(tree: Path, status: int, verdict: str) -> Ending:
    params = SimpleNamespace(base=SimpleNamespace(data="data/raw"))
    site: Any = SimpleNamespace(params=params, incoming=tree, pointer=lambda: "data/raw.dvc")
    steps = Ending(site, tree, {})
    steps.status, steps.verdict = status, verdict
    return steps


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        pytest.param(137, "", id="killed on its way"),
        pytest.param(1, "merged", id="merged, and DVC did not record it"),
        pytest.param(1, "nothing-new", id="merged before, and DVC did not record it"),
    ],
)
def test_merging_that_was_ended_ends_the_retraining(
    tmp_path: Path, status: int, verdict: str
) -> None:
    steps = merging(tmp_path, status, verdict)
    with pytest.raises(FlowError, match=r"batch new: .*something"):
        steps.merge_batches({"new": "mark"}, print)
    assert steps.refused == {}


@pytest.mark.parametrize("verdict", ["refused", ""])
def test_a_bad_batch_is_refused_and_the_work_goes_on(tmp_path: Path, verdict: str) -> None:
    steps = merging(tmp_path, 1, verdict)
    steps.merge_batches({"new": "mark"}, print)
    assert list(steps.refused) == ["new"]


def test_why_a_batch_was_refused_is_told_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_TOKEN", "s3cret-of-the-store")
    steps = merging(tmp_path, 1, "refused")
    steps.reason = "https://store/?token=s3cret-of-the-store cannot be read"
    steps.merge_batches({"new": "mark"}, print)
    assert steps.refused == {"new": "https://store/?token=*** cannot be read"}
