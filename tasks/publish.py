"""Send what stages recorded offline to W&B. A failure here never undoes anything.

    python -m tasks.publish [--timeout SECONDS]

Needs an account (`wandb login`, or WANDB_API_KEY). Without one, or with the server out of reach, it
says so at once and leaves the runs for the next time.
"""

from __future__ import annotations

import argparse
import netrc
import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

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
    """Send all runs that were not sent yet.

    Returns:
        Exit status: 0 when nothing is left to send, 1 else.
    """
    from components.tracking import offline_runs, sync

    runs = offline_runs(root)
    if not runs:
        print("publish: nothing to send")
        return 0
    if not has_account():
        print(f"publish: {len(runs)} runs stay here: no W&B account (`wandb login`)")
        return 1
    reason = unreachable()
    if reason:
        print(f"publish: {len(runs)} runs stay here: {server()} is out of reach ({reason})")
        return 1
    failed = 0
    for run in runs:
        try:
            sync(run, timeout)
            print(f"publish: {run.name} sent")
        except RuntimeError as error:
            failed += 1
            print(f"publish: {run.name} not sent: {error}", file=sys.stderr)
    return 1 if failed else 0


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.publish",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="most seconds for one run (default 120)"
    )
    args = parser.parse_args(argv)
    return publish(Path(), args.timeout)


if __name__ == "__main__":
    sys.exit(main())
