"""Lets work on other machines end when the process that wanted it ends, whichever way.

The owner renews a small file; who works for it looks at that file, on a file system that both see.
A trial on the owner's own machine ends at once when the owner is killed (`process_guard`); this is
for workers that are no children of it, and for a tidy end in any case.
"""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from components.errors import WriteError
from components.files import write_text

RENEW_SECONDS = 10.0
LOOK_SECONDS = 1.0
# So many looks without a renewal are an end: ten minutes. Not by the clock, since owner and worker
# may both have been suspended.
PATIENCE_LOOKS = 600


class Lease:
    """Held by the owner for the length of a block.

    Args:
        path: of the file; an older lease there ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.token = uuid.uuid4().hex
        self._over = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Lease:
        self._write(0)
        self._renewing.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Whoever works under it stops within seconds."""
        self._over.set()
        self._renewing.join()
        self.path.unlink(missing_ok=True)

    def _renew(self) -> None:
        count = 0
        while not self._over.wait(RENEW_SECONDS):
            count += 1
            with suppress(WriteError):  # the disk may take the next one
                self._write(count)

    def _write(self, count: int) -> None:
        write_text(self.path, f"{self.token} {count}")


class LeaseWatch:
    """The worker's side: ask it now and then.

    Args:
        path, token: of the `Lease`.
    """

    def __init__(self, path: Path, token: str) -> None:
        self._path, self._token = path, token
        self._text = ""
        self._looks = 0
        self._looked = -LOOK_SECONDS
        self._ended = False

    def ended(self) -> bool:
        """Whether the lease is no longer held, at the last look."""
        if self._ended or time.monotonic() - self._looked < LOOK_SECONDS:
            return self._ended
        self._looked = time.monotonic()
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            text = ""
        except OSError:
            # A network's file system may be away for a while, or have lost a file just renamed.
            text = self._text or self._token
        self._looks = 0 if text != self._text else self._looks + 1
        self._text = text
        self._ended = self._looks > PATIENCE_LOOKS or text.partition(" ")[0] != self._token
        return self._ended
