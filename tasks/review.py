"""Record a retraining with W&B, offline: verdict, what changed, figures, pictures, and the report.

    python -m tasks.review [CONTEXT.json]

`python -m flows.retrain` calls it after the gate. Reads what the stages and the gate left here, and
in CONTEXT.json `champion` (a version, or empty), `merged` [batches] and `refused` {batch: reason}.
`python -m tasks.publish` sends it. WANDB_MODE=disabled: nothing is recorded.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import TimmflowError
from components.files import read_json
from components.hidden import hidden, secrets_of
from tasks.layout import Layout
from tasks.params import Params, command_parser, load
from tasks.report_history import parameters_at
from tasks.tracked import (
    dataset_version,
    mistake_pictures,
    model_version,
    onnx_version,
    recorded,
    switched_off,
)

if TYPE_CHECKING:
    from components.report.review import Before
    from components.tracking.record import Outputs
    from tasks.model_registry import Registry

STAGE = "retrain"
_RULES = ("rule", "about", "measured", "limit", "outcome", "note")
_PARTS = ("num_images", "champion", "challenger", "gain", "low", "high")


def record(params: Params, layout: Layout, context: dict[str, Any]) -> None:
    """Record it.

    Raises:
        TimmflowError: what a stage or the gate leaves is missing or damaged, or there is no such
            champion.
    """
    from tasks.report import gather

    verdict = read_json(layout.verdict)
    facts = gather(params, layout)

    from components.report.review import review
    from tasks.model_registry import Registry

    registry = Registry(layout.root) if context.get("champion") else None
    before = _before(registry, context, facts.parameters)
    figures = verdict["figures"]
    data, model = dataset_version(layout.prepared), model_version(layout)
    commit = facts.revision.commit if facts.revision else ""
    named = "\n".join([before.commit, *data, *model, commit, verdict["outcome"]])
    key = hashlib.sha256(named.encode()).hexdigest()[:8]
    group = os.environ.get("WANDB_RUN_GROUP", f"{STAGE}-{key}")
    links = {
        "All runs of it": f"wandb:groups/{group}",
        "The model": f"wandb:artifacts/model/{'/'.join(model)}",
        "The data": f"wandb:artifacts/dataset/{'/'.join(data)}",
        "The verdict": f"wandb:artifacts/verdict/verdict/{STAGE}-{key}",
    }
    uses = [data, model]
    if registry is not None:
        uses.append(onnx_version(registry.model_file(before.commit)[1]))
    content = review(facts, verdict, before, links, key)

    def outputs() -> Outputs:
        from components.tracking.record import Logged, Outputs

        parts = {
            name: (
                [name, *_PARTS],
                [[part, *(entry[k] for k in _PARTS)] for part, entry in figures[name].items()],
            )
            for name in ("classes", "slices")
        }
        rules = [[rule[name] for name in _RULES] for rule in verdict["rules"]]
        return Outputs(
            artifacts={"verdict": Logged("verdict", layout.verdict, f"{STAGE}-{key}")},
            uses=uses,
            curves=layout.plots / "train.csv",
            pictures=mistake_pictures(layout),
            tables={"rules": (_RULES, rules), **{k: v for k, v in parts.items() if v[1]}},
            review=hidden(content, secrets_of(os.environ)),
        )

    config = params.model_dump(mode="json", by_alias=True)
    config |= {"git_revision": commit, "champion": before.version}
    config |= {"data_fingerprint": figures["data_fingerprint"], "merged": list(before.merged)}
    with recorded(STAGE, group, config, layout, outputs, run_id=f"{STAGE}-{key}") as finish:
        finish(_summary(verdict))


def _summary(verdict: dict[str, Any]) -> dict[str, Any]:
    """The run's figures: what was decided, and both models'."""
    figures = verdict["figures"]
    whole = {k: v for k, v in figures["all"].items() if k != "gains" and v is not None}
    summary = {"outcome": verdict["outcome"], "comparison": verdict["comparison"], **whole}
    for name in ("challenger", "champion"):
        for key, value in ((figures[name] or {}).get("headline") or {}).items():
            if value is not None:
                summary[f"{name}/{key}"] = value
    return summary


def _before(
    registry: Registry | None, context: dict[str, Any], now: Sequence[tuple[str, Any]]
) -> Before:
    """What the champion was made from, by its commit."""
    from components.report.review import Before

    told = {"merged": context.get("merged", []), "refused": context.get("refused", {})}
    if registry is None:
        return Before(**told)
    version = registry.version(context["champion"])
    return Before(
        version=version.name,
        commit=version.commit,
        figures={
            stage: registry.at(version.commit, f"metrics/{stage}.json")
            for stage in ("validate", "preprocess")
        },
        parameters=list(parameters_at(registry.root, version.commit, dict(now)).items()),
        **told,
    )


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = command_parser("review", __doc__)
    parser.add_argument("context", nargs="?", type=Path, metavar="CONTEXT.json")
    args = parser.parse_args(argv)
    if switched_off():
        return 0
    try:
        record(load(args.params), Layout(), read_json(args.context) if args.context else {})
    except TimmflowError as error:
        print(f"error: review: not recorded with W&B: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
