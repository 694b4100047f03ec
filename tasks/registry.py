"""Versions of the model and the stages they are in, as git tags that GTO and DVC read.

    python -m tasks.registry list                       versions, the newest first
    python -m tasks.registry show VERSION               all about one
    python -m tasks.registry fetch VERSION FILE         write its model to a new file
    python -m tasks.registry register                   make the commit checked out a version
    python -m tasks.registry promote VERSION [STAGE]    put it into a stage (default production)
    python -m tasks.registry rollback [STAGE]           back to the version that was there before
    python -m tasks.registry retire VERSION             take it back; it stays on record
    python -m tasks.registry history [STAGE]            what happened to a stage, the newest first

Bring the model in production elsewhere: dvc artifacts get REPOSITORY model --stage production
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from components.errors import TimmflowError
from tasks.model_registry import PRODUCTION, Registry, Version, stage_history

_MAIN_METRICS = ("accuracy", "map")


def list_lines(registry: Registry) -> list[str]:
    """A table of all versions."""
    rows = [("version", "stage", "metric", "registered (UTC)", "commit")]
    for version in registry.versions():
        stage = "retired" if version.retired else ", ".join(version.stages)
        rows.append(
            (version.name, stage, _metric(registry, version), version.date, version.commit[:7])
        )
    if len(rows) == 1:
        return ["no versions yet: python -m tasks.registry register"]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def show_lines(registry: Registry, version: Version) -> list[str]:
    """All that is known of a version."""
    path, md5 = registry.model_file(version.commit)
    facts = {
        "commit": version.commit,
        "registered": f"{version.date} UTC",
        "stage": "retired" if version.retired else ", ".join(version.stages) or "none",
        "file": f"{path}, MD5 {md5}",
        "metric": _metric(registry, version),
    }
    params = registry.at(version.commit, "params.yaml")
    train = params.get("train") or {}
    if "backbone" in train:
        facts["backbone"] = str(train["backbone"])
    verdict = registry.at(version.commit, "reports/verdict.json")
    if verdict:
        facts["verdict"] = f"{verdict.get('outcome')}: {verdict.get('comparison')}"
    exported = registry.at(version.commit, "metrics/export.json")
    if exported:
        facts["size, time"] = (
            f"{exported['megabytes']:.1f} MB, {exported['latency_ms_p50']:.1f} ms an image"
        )
    facts["fetch"] = f"dvc artifacts get REPOSITORY model --rev {version.name}"
    lines = [version.name, *(f"  {name:12}{value}" for name, value in facts.items()), "  history"]
    for event in registry.events:
        if event.commit == version.commit:
            lines += [f"    {event.date}  {event.reason}"]
    return lines


def _metric(registry: Registry, version: Version) -> str:
    figures: dict[str, Any] = registry.at(version.commit, "metrics/evaluate.json")
    for name in _MAIN_METRICS:
        if name in figures:
            return f"{name} {figures[name]:.4f} on {figures.get('split', 'test')}"
    return "unknown"


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.registry",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in ("list", "show", "fetch", "register", "promote", "rollback", "retire", "history"):
        command = commands.add_parser(name)
        if name in ("show", "fetch", "promote", "retire"):
            command.add_argument("version", help="such as v1.2.0")
        if name == "fetch":
            command.add_argument("file", type=Path, help="to write; not there yet")
        if name in ("promote", "rollback", "history"):
            command.add_argument("stage", nargs="?", default=PRODUCTION)
        if name == "register":
            command.add_argument("--bump", choices=["major", "minor", "patch"], default="minor")
        if name in ("register", "promote", "rollback", "retire"):
            command.add_argument("--reason", default="", help="for the record")
            command.add_argument(
                "--push", action="store_true", help="fetch tags from, and push to, the git remote"
            )
    args = parser.parse_args(argv)
    try:
        registry = Registry(Path(), getattr(args, "push", False))
        print("\n".join(_run(registry, args)))
    except TimmflowError as error:
        print(f"error: registry: {error}", file=sys.stderr)
        return 1
    return 0


def _run(registry: Registry, args: argparse.Namespace) -> list[str]:
    match args.command:
        case "list":
            return list_lines(registry)
        case "show":
            return show_lines(registry, registry.version(args.version))
        case "fetch":
            version = registry.version(args.version)
            registry.fetch(version.commit, args.file)
            return [f"{version.name}: {args.file}"]
        case "history":
            found = stage_history(registry.events, args.stage)
            if not found:
                return [f"{args.stage}: nothing was ever in this stage"]
            return [f"{event.date}  {event.reason}" for event in found]
        case "register":
            version = registry.register(args.bump, args.reason)
            where = "" if registry.has_remote() else "; no DVC remote: its files are only here"
            return [f"{version.name}: commit {version.commit[:7]}{where}"]
        case "promote":
            before = registry.promote(args.version, args.stage, args.reason)
            name = registry.version(args.version).name
            if before is not None and before.name == name:
                return [f"{args.stage}: is {name} already"]
            return [f"{args.stage}: {name}" + (f", was {before.name}" if before else "")]
        case "rollback":
            left, back = registry.rollback(args.stage, args.reason)
            return [f"{args.stage}: back to {back.name}, was {left.name}"]
        case _:
            return [f"{registry.retire(args.version, args.reason).name}: retired"]


if __name__ == "__main__":
    sys.exit(main())
