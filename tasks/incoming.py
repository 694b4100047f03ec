"""Check a batch of new data, and merge it into `base.data` as a new version.

    python -m tasks.incoming data/incoming/BATCH             check; nothing is changed
    python -m tasks.incoming data/incoming/BATCH --merge     check and merge, or refuse it whole
    python -m tasks.incoming --undo                          back to the version before

The batch may be in any format that can be read, and is written in that of the data; its classes
must be among those of the data. What is there already, equally labelled, is skipped. The verdict
goes to `reports/incoming/BATCH.json`; exit status 1 means refused. The version before stays in the
folder `<base.data>.previous`; DVC, where there is, records the new one (`dvc add`, or `dvc commit`
where a stage makes the data).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.errors import DataError, RepositoryError, TimmflowError
from components.files import write_json
from tasks.layout import Layout
from tasks.params import Params, command_parser, load
from tasks.repository import dvc, git

if TYPE_CHECKING:
    from components.validation.incoming import Verdict
    from components.validation.pixel_pass import ImageFacts
    from components.validation.run import Result

_NAMED = 10  # findings that are printed


def report_path(layout: Layout, batch: Path) -> Path:
    """Where the verdict on a batch goes."""
    return layout.root / "reports" / "incoming" / f"{batch.resolve().name}.json"


def incoming(params: Params, layout: Layout, batch: Path, merge: bool) -> dict[str, Any]:
    """Check a batch, and merge it if that is wanted and it has no error.

    Returns:
        What is written to `reports/incoming/BATCH.json`: `batch`, `data`, `verdict` (`fine`,
        `nothing-new`, `merged` or `refused`), `reason` (of a refusal, beyond the findings),
        `version` (what became of DVC), `num_data_images` and `num_data_decoded` (the others are as
        the last `validate` saw them), `num_images`, `num_new`, `num_errors`, `num_warnings`,
        `added` {path in the batch: path in the data}, `skipped` {path in the batch: where it is
        already}, `findings`.

    Raises:
        DataError: batch or data cannot be read, the data has errors, or `dvc add` failed.
    """
    from components.validation import versions
    from components.validation.incoming import check_batch
    from components.validation.known_facts import load_facts

    data = (layout.root / params.base.data).resolve()
    _check_apart(batch, data)
    with versions.locked(data) if merge else nullcontext():
        if merge:
            versions.recover(data)
        current = _validated(data, params, load_facts(layout.facts))
        if current.num_errors:
            plural = "" if current.num_errors == 1 else "s"
            raise DataError(
                f"base.data = {params.base.data}: the data itself has {current.num_errors:,} "
                f"error{plural}, such as {current.stopping[0]}; mend that before anything is added"
            )
        verdict = check_batch(batch, current, params.validate_)
        report = _report(params, batch, verdict, current)
        if merge and not verdict.refused and verdict.new:
            try:
                report["added"] = _merge(data, params, current, verdict)
                report["verdict"] = "merged"
            except DataError as error:
                report |= {"verdict": "refused", "reason": str(error)}
            finally:
                versions.recover(data)
        # Before DVC, which may fail: what has been done is known.
        write_json(report_path(layout, batch), report)
        if merge and report["verdict"] in ("merged", "nothing-new"):
            # Also where nothing is new: a merge may have been killed before this.
            report["version"] = record_version(params, layout)
            write_json(report_path(layout, batch), report)
    return report


def _check_apart(batch: Path, data: Path) -> None:
    inner = batch.resolve()
    if inner == data or data in inner.parents or inner in data.parents:
        raise DataError(f"batch {batch}: must lie outside base.data = {data}, and not around it")


def _validated(folder: Path, params: Params, known: dict[str, ImageFacts]) -> Result:
    from components.contract.readers import read_dataset
    from components.validation.run import validate_reading

    base, settings = params.base, params.validate_
    reading = read_dataset(folder, settings.format, base.task, base.classes, base.multi_label)
    return validate_reading(reading, settings, known=known)


def _merge(data: Path, params: Params, current: Result, verdict: Verdict) -> dict[str, str]:
    from components.validation import merge, versions

    draft = versions.draft_path(data)
    added = merge.build_merged(draft, current, verdict)
    # Only what is new is decoded; of the rest the content is compared.
    known = {fact.path: fact for fact in current.facts if not fact.fault}
    merge.check_merged(_validated(draft, params, known), current, verdict)
    versions.replace(data)
    return added


def _report(params: Params, batch: Path, verdict: Verdict, current: Result) -> dict[str, Any]:
    from components.contract.findings import count

    word = "fine" if verdict.new else "nothing-new"
    return {
        "batch": batch.as_posix(),
        "data": params.base.data,
        "verdict": "refused" if verdict.refused else word,
        "reason": "",
        "version": "",
        "num_data_images": len(current.facts),
        "num_data_decoded": current.num_decoded,
        "num_images": len(verdict.reading.images),
        "num_new": len(verdict.new),
        "num_errors": count(verdict.findings, "error"),
        "num_warnings": count(verdict.findings, "warning"),
        "added": {},
        "skipped": verdict.skipped,
        "findings": [item.to_dict() for item in verdict.findings],
    }


def undo(params: Params, layout: Layout) -> str:
    """Exchange the current version of the data and the one before.

    Returns:
        What became of DVC.

    Raises:
        DataError: there is no version before.
    """
    from components.validation import versions

    data = (layout.root / params.base.data).resolve()
    with versions.locked(data):
        versions.recover(data)
        versions.undo(data)
        return record_version(params, layout)


def record_version(params: Params, layout: Layout) -> str:
    """Record the data with DVC, if it can be.

    Returns:
        What was done, or why nothing was.

    Raises:
        DataError: DVC failed; the data itself is as it should be.
    """
    root, name = layout.root.resolve(), params.base.data
    found = recording(root, name)
    if isinstance(found, str):
        return f"not recorded: {found}"
    words, file = found
    try:
        dvc(root, *words)
    except RepositoryError as error:
        raise DataError(
            f"base.data = {name} is changed, but not recorded: {error}; run "
            f"`dvc {' '.join(words)}`, or the same command as before, again"
        ) from None
    return f"recorded: commit {file}"


def recording(root: Path, name: str) -> tuple[list[str], str] | str:
    """How DVC records a folder of data.

    What tracks it already is asked to: a `.dvc` file of its own or of a folder above it, or the
    stage that makes it. Else it gets a `.dvc` file.

    Args:
        root: the repository.
        name: of the folder, as `base.data` gives it.

    Returns:
        The words of the command after `dvc`, and the file to be committed then; or why it cannot.
    """
    data = root / name
    inside = data.resolve().is_relative_to(root) and not data.is_symlink()
    if not (root / ".dvc").is_dir() and not data.with_name(f"{data.name}.dvc").exists():
        return "this is no DVC repository"
    if not inside:
        return "the data lies outside of this repository"
    relative = data.resolve().relative_to(root)
    for folder in (relative, *relative.parents[:-1]):
        pointer = folder.with_name(f"{folder.name}.dvc")
        if (root / pointer).is_file():
            return ["add", "--quiet", folder.as_posix()], pointer.as_posix()
    for stage, outputs in _stages(root / "dvc.yaml"):
        if {name, relative.as_posix(), "${base.data}"} & outputs:
            return ["commit", "--quiet", "--force", stage], "dvc.lock"
    pointer = relative.with_name(f"{relative.name}.dvc")
    if _ignored(root, root / pointer):
        return f"git ignores {pointer}, which DVC has to write; see .gitignore"
    return ["add", "--quiet", relative.as_posix()], pointer.as_posix()


def _stages(file: Path) -> Iterator[tuple[str, set[str]]]:
    """Names of DVC's stages, each with the paths that it writes."""
    if not file.is_file():
        return
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    for name, stage in (content.get("stages") or {}).items():
        outs = (stage.get("outs") or []) if isinstance(stage, dict) else []
        yield name, {next(iter(out)) if isinstance(out, dict) else out for out in outs}


def _ignored(root: Path, file: Path) -> bool:
    try:
        git(root, "check-ignore", "--quiet", str(file))
    except RepositoryError:
        return False  # also where there is no git: DVC will say what it needs
    return True


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = command_parser("incoming", __doc__)
    parser.add_argument("batch", nargs="?", type=Path, help="folder of the new data")
    parser.add_argument("--merge", action="store_true", help="merge it, if it has no error")
    parser.add_argument("--undo", action="store_true", help="back to the version before")
    args = parser.parse_args(argv)
    if (args.batch is None) != args.undo or (args.undo and args.merge):
        parser.error("give a batch, or --undo alone")
    layout = Layout()
    try:
        params = load(args.params)
        if args.undo:
            version = undo(params, layout)
            print(f"{params.base.data}: the version before is back; {version}")
            return 0
        report = incoming(params, layout, args.batch, args.merge)
    except (TimmflowError, OSError) as error:
        print(f"error: incoming: {error}", file=sys.stderr)
        return 1
    _print(report, report_path(layout, args.batch))
    return int(report["verdict"] == "refused")


def _print(report: dict[str, Any], path: Path) -> None:
    for item in report["findings"][:_NAMED]:
        place = f"{item['where']}: " if item["where"] else ""
        value = f" (is {item['value']})" if item["value"] else ""
        print(f"  {item['severity']}: {place}{item['message']}{value}")
    if len(report["findings"]) > _NAMED:
        print(f"  and {len(report['findings']) - _NAMED} more findings")
    total, decoded = report["num_data_images"], report["num_data_decoded"]
    print(f"  {report['data']}: {total} images; {_decoded(total, decoded)}")
    for key in ("reason", "version"):
        if report[key]:
            print(f"  {report[key]}")
    if report["verdict"] == "fine":
        print("  nothing was changed; --merge makes it part of the data")
    print(
        f"{report['batch']}: {report['verdict']}; {report['num_images']} images, "
        f"{report['num_new']} new, {len(report['skipped'])} there already; {path}"
    )


def _decoded(total: int, decoded: int) -> str:
    if not decoded:
        return "all unchanged since the last validate, none decoded"
    if decoded == total:
        return "all decoded; after `python -m tasks.validate` only changed ones are"
    return f"{decoded} new or changed since the last validate, and decoded"


if __name__ == "__main__":
    sys.exit(main())
