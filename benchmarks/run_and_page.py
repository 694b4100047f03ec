"""What benchmarks share that go on where they stopped: commands `run` and `page`, JSON lines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def run_and_page(
    text: str,
    document: str,
    place: tuple[str, str] = ("--state", "results, JSON lines"),
    run: str = "try what has not been tried",
    page: str = "what was found",
    **others: str,
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """A command line with the commands `run` and `page`.

    Args:
        text: what the benchmark is for.
        document: of the repository that has the page; with `--write` its path is `args.write`,
            else that is None.
        place: the option that every command needs, a path, and its help.
        run: help of that command. It takes `--minutes`, after which nothing more is begun.
        page: help of that one.
        others: help of further commands, by name.

    Returns:
        The parser, and that of `run`, for options of its own. The command is `args.command`.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {"run": run, **others, "page": f"{page}, as {document} has it"}
    made = {name: commands.add_parser(name, help=said) for name, said in helps.items()}
    for command in made.values():
        command.add_argument(place[0], type=Path, required=True, help=place[1])
    made["run"].add_argument("--minutes", type=float, default=1e9, help="start none after so many")
    made["page"].add_argument(
        "--write", action="store_const", const=ROOT / document, help=f"into {document}"
    )
    return parser, made["run"]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Records of what has been done; none where there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def add_line(path: Path, record: dict[str, Any]) -> None:
    """Put a record at the end of the file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
