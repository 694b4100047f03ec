"""Which commit is checked out."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git_revision(root: Path) -> str:
    """The commit checked out in `root`, or `unknown` outside a git repository."""
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
