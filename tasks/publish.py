"""Send what stages and retrainings recorded offline to W&B. A failure here never undoes anything.

    python -m tasks.publish [--timeout SECONDS]

Needs an account: WANDB_API_KEY, or `wandb login`. Runs first, then what ties them together:
lineage, reports of retrainings, and the aliases of models by the registry's stages. What could not
be sent stays for the next time, whatever ended this one.

exit status: 0 nothing is left to send; 1 something is, and the last line says why
"""

from __future__ import annotations

import argparse
import netrc
import os
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from components.errors import TimmflowError
from components.hidden import hidden, secrets_of
from tasks.tracked import PROJECT, onnx_version, wandb_folders

if TYPE_CHECKING:
    from components.tracking.send import Sent

_REACH_SECONDS = 2.0


def server() -> str:
    """Address of the W&B server."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def has_account() -> bool:
    """Is there a key for the server, in the environment or where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(urlsplit(server()).hostname or "") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def unreachable() -> str | None:
    """Why the server cannot be reached, or None; asked before anything that would wait for long."""
    address = urlsplit(server())
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_REACH_SECONDS).close()
    except OSError as error:
        return str(error)
    return None


def publish(root: Path, timeout: float) -> int:
    """Send all that was not sent yet.

    Args:
        root: of the working copy.
        timeout: seconds for all of it.

    Returns:
        Exit status: 0 when nothing is left to send, 1 else.
    """
    from components.tracking.plan import only_sender

    deadline = time.monotonic() + timeout
    wandb_folders(root)
    with only_sender(root) as free:
        if not free:
            return _left("another publish is at work")
        return _publish(root, timeout, deadline)


def _publish(root: Path, timeout: float, deadline: float) -> int:
    from components.tracking.plan import read_stages, unsent, write_stages

    project, entity = os.environ.get("WANDB_PROJECT", PROJECT), os.environ.get("WANDB_ENTITY")
    place = hidden(f"{server()}/{entity or ''}/{project}", ())
    runs, stages, told = unsent(root), registry_aliases(root), read_stages(root)
    known = told.get(place, {})
    aliases = {name: names for name, names in stages.items() if known.get(name, []) != names}
    if not runs and not aliases:
        _say("nothing to send")
        return 0
    waiting = " and ".join(
        [_number(len(runs), "run")] * bool(runs) + ["aliases of models"] * bool(aliases)
    )
    if not has_account():
        return _left(f"{waiting} left here: no W&B account (WANDB_API_KEY, or `wandb login`)")
    if reason := unreachable():
        return _left(f"{waiting} left here: {server()} is out of reach ({reason})")

    from components.tracking.send import Target, send

    managed = {name for names in (*stages.values(), *known.values()) for name in names}
    sent = send(runs, aliases, managed, Target(project, entity), deadline)
    if sent.aliases:
        told[place] = {**known, **sent.aliases}
        write_stages(root, told)
    return _outcome(len(runs), sent, timeout)


def _outcome(num_runs: int, sent: Sent, timeout: float) -> int:
    """Say what became of it; gives the exit status."""
    for note in sent.notes:
        _say(note)
    for item, reason in sent.problems.items():
        _say(f"{Path(item).name} not sent: {reason}")
    done = f"{_number(len(sent.done), 'run')} sent" if num_runs else "aliases sent"
    if not sent.problems:
        _say(done)
        return 0
    reasons = Counter(sent.problems.values()).most_common()
    others = f", and {_number(len(reasons) - 1, 'other reason')}" if reasons[1:] else ""
    why = reasons[0][0].replace("within the time", f"within {timeout:g} s")
    return _left(f"{done}, {len(sent.problems)} left for the next time: {why}{others}")


def registry_aliases(root: Path) -> dict[str, list[str]]:
    """W&B's alias of each registered model's content, to the names that the registry gives it.

    They are its version, as `registry-v1.2.0` (W&B counts its own versions v0, v1, …), and its
    stages.
    """
    from tasks.model_registry import Registry

    aliases: dict[str, set[str]] = {}
    try:
        registry = Registry(root)
        for version in registry.versions():
            alias = onnx_version(registry.model_file(version.commit)[1])[1]
            names = {*version.stages} | (set() if version.retired else {f"registry-{version.name}"})
            aliases.setdefault(alias, set()).update(name.replace("/", "-") for name in names)
    except TimmflowError as error:
        if (root / ".git").exists():
            _say(f"aliases of models are left as they are: {error}")
        return {}
    return {alias: sorted(names) for alias, names in aliases.items()}


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _left(reason: str) -> int:
    _say(reason)
    return 1


def _say(line: str) -> None:
    print(f"publish: {hidden(line, secrets_of(os.environ))}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.publish",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="most seconds for all (default 300)"
    )
    args = parser.parse_args(argv)
    return publish(Path(), args.timeout)


if __name__ == "__main__":
    sys.exit(main())
