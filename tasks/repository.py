"""git and DVC as commands that are waited for: the one place that knows how each is called.

Stages, which run long and must not outlive their flow, are started by `flows.dvc_stage`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.errors import RepositoryError

# What a hook or a rebase around us has set: it would turn git to another repository, index or time.
# Who commits and how a remote is reached (GIT_COMMITTER_NAME, GIT_SSH_COMMAND) stays.
_OF_ANOTHER = {
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_PREFIX"),
    *("GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"),
    *("GIT_NAMESPACE", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE", "GIT_NO_REPLACE_OBJECTS"),
    *("GIT_REPLACE_REF_BASE", "GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"),
    *(f"GIT_{kind}_PATHSPECS" for kind in ("LITERAL", "GLOB", "NOGLOB", "ICASE")),
}


def git(
    root: Path,
    *words: str,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> str:
    """What `git WORDS` prints, without the last ends of line.

    No hooks of the user's are run, but those of `push`, by which git-lfs sends its files. Names are
    printed as they are, also those beyond ASCII.

    Args:
        root: of the working tree.
        words: the command and its arguments.
        stdin: what it reads.
        env: variables on top of this process's environment.
        seconds: that it may take.

    Raises:
        RepositoryError: it ended with an error, in git's words; or there is no git.
    """
    command, what = git_command(root, *words), f"git {words[0]} in {root}"
    return _said(what, command, None, {**_around(), **(env or {})}, stdin, seconds)


def git_command(root: Path, *words: str) -> list[str]:
    """The command line of `git WORDS`, as `git` runs it."""
    # Reading must not write the index while somebody else commits.
    command = ["git", "--no-optional-locks", "-c", "core.quotePath=false", "-C", str(root)]
    if words[0] != "push":
        command += ["-c", f"core.hooksPath={os.devnull}"]
    return [*command, *words]


def dvc(root: Path, *words: str) -> str:
    """What `dvc WORDS` prints, without the last ends of line.

    Args:
        root: of the repository.
        words: the command and its arguments.

    Raises:
        RepositoryError: it ended with an error, in DVC's words.
    """
    return _said(f"dvc {words[0]} in {root}", dvc_command(*words), root, dvc_environment())


def dvc_command(*words: str) -> list[str]:
    """The command line of `dvc WORDS`, with this interpreter."""
    return [sys.executable, "-m", "dvc", *words]


def dvc_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, made fit for DVC and its stages.

    `python` in `dvc.yaml` becomes this interpreter; output is not held back in buffers.

    Args:
        extra: variables on top.
    """
    # Not resolved: in a virtual environment the link's place is what selects the environment.
    here = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    return {
        **_around(),
        "DVC_NO_ANALYTICS": "1",
        "PYTHONUNBUFFERED": "1",
        **(extra or {}),
        "PATH": f"{here}{os.pathsep}{path}",
    }


def git_revision(root: Path) -> str:
    """The commit checked out in `root`, or `unknown` outside a git repository."""
    try:
        return git(root, "rev-parse", "HEAD")
    except RepositoryError:
        return "unknown"


def _around() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER}


def _said(
    what: str,
    command: Sequence[str],
    cwd: Path | None,
    env: Mapping[str, str],
    stdin: str = "",
    seconds: float | None = None,
) -> str:
    """What a command prints; `what` names it in errors."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise RepositoryError(f"{what}: not done after {seconds:g} s") from None
    except OSError as error:
        raise RepositoryError(f"{what}: cannot be run: {error}") from None
    if done.returncode != 0:
        raise RepositoryError(f"{what}: {_reason(done.stderr) or f'status {done.returncode}'}")
    return done.stdout.rstrip("\r\n")


def _reason(stderr: str) -> str:
    """Why a command failed: of DVC's lines those of its first error, of git's all."""
    lines = stderr.strip().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("ERROR: "):
            # After an empty line DVC says where to ask for help.
            end = next((n for n in range(number, len(lines)) if not lines[n].strip()), len(lines))
            return "\n".join(lines[number:end]).removeprefix("ERROR: ")
    return "\n".join(lines)
