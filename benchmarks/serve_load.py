"""`tasks.serve` under 200 requests by 8 clients at once, hostile ones among them, again and again.

    python -m benchmarks.serve_load model.onnx IMAGE_FOLDER [--rounds 5]

Starts the server as a user would, on loopback, and checks that every right request gets exactly
what `tasks.predict` says of the image, that every wrong one gets its 4xx with a reason, that
SIGTERM ends it cleanly, and that its memory is flat: resident memory after each round is printed.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
Address = tuple[str, int]
Answer = tuple[int, Any]  # status, JSON; status 0 where the connection was cut without an answer
UPLOAD_SECONDS = 3


@dataclass(frozen=True)
class Server:
    """A running server.

    Args:
        process: of it.
        address: host and port.
    """

    process: subprocess.Popen[str]
    address: Address

    @property
    def megabytes(self) -> float:
        """Its resident memory."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6


@contextmanager
def running(model: Path, *options: str, log: Path | None = None) -> Iterator[Server]:
    """`tasks.serve` on a free port of loopback; at the end SIGTERM must stop it cleanly."""
    command = [sys.executable, "-m", "tasks.serve", str(model), "--port", "0", *options]
    with (log or Path(os.devnull)).open("w") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert " on http://" in said, f"the server did not start: {said!r}"
        server = Server(process, ("127.0.0.1", int(said.rsplit(":", 1)[1])))
        for _ in range(600):  # the socket is open; the server behind it may still be loading
            if ask(server.address, "GET", "/healthz")[0] == 200:
                break
        yield server
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, f"the server ended with {process.returncode}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(address: Address, method: str, path: str, body: Any = None, kind: str = "") -> Answer:
    """One request; `body` may be an iterable, which is sent in chunks."""
    connection = http.client.HTTPConnection(*address, timeout=600)
    # The answer may come before all is sent.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, path, body, {"Content-Type": kind} if kind else {})
    try:
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    except (http.client.BadStatusLine, ConnectionResetError, BrokenPipeError):
        return 0, None
    finally:
        connection.close()


def drip(address: Address, start: bytes, piece: bytes, pause: float = 0.2) -> Answer:
    """Send `start`, then `piece` again and again, slowly, until the server ends it (slowloris)."""
    with socket.create_connection(address, timeout=600) as connection:
        connection.sendall(start)
        deadline = time.monotonic() + 60
        received = b""
        connection.settimeout(pause)
        while time.monotonic() < deadline:
            try:
                data = connection.recv(65536)
                received += data
                if not data:
                    break
            except TimeoutError:
                try:
                    connection.sendall(piece)
                except OSError:
                    break
            except ConnectionResetError:
                break
        else:
            raise AssertionError("a slow client was not cut off within a minute")
    head, _, body = received.partition(b"\r\n\r\n")
    return (int(head.split()[1]), json.loads(body)) if head else (0, None)


def form(data: bytes, name: str = "photo.jpg") -> tuple[bytes, str]:
    """A multipart body with one file, and its type."""
    head = f'--xyz\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n--xyz--\r\n", "multipart/form-data; boundary=xyz"


def bomb(side: int = 20_000) -> bytes:
    """A small PNG of many pixels, all black."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side)) for _ in range(side)) + packer.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + checksum

    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def wrong_requests(
    good: bytes, max_bytes: int, side: int = 20_000
) -> dict[str, tuple[Callable[[Address], Answer], set[int]]]:
    """Ways to be wrong: what is done, and the statuses that are an answer to it.

    Args:
        good: a whole image file.
        max_bytes: largest body that the server takes.
        side: of the square of pixels that the bomb unpacks to.
    """
    start = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
    huge, many = bytes(max_bytes + 1), bomb(side)
    half = max_bytes // 2

    def post(body: Any, kind: str = "image/png", path: str = "/predict") -> Any:
        return lambda address: ask(address, "POST", path, body, kind)

    return {
        "huge body": (post(huge), {413}),
        "huge body, no length": (
            lambda address: ask(address, "POST", "/predict", iter([huge[:half]] * 3), "image/png"),
            {413, 408},  # the time may be up before the limit is reached
        ),
        "decompression bomb": (post(many), {413}),
        "empty": (post(b""), {400}),
        "empty form": (post(*form(b"")), {400}),
        "wrong type": (post(b"{}", "application/json"), {415}),
        "no image": (post(b"GIF89a but not really"), {422}),
        "half an image": (post(good[: len(good) // 2]), {422}),
        "half a form": (post(form(good)[0][:-20], form(good)[1]), {400}),
        "wrong threshold": (post(good, path="/predict?threshold=7"), {422}),
        "wrong method": (lambda address: ask(address, "PUT", "/predict", good), {405}),
        "no HTTP": (lambda address: drip(address, b"\x16\x03\x01 hello\r\n\r\n", b"x"), {400}),
        "huge head": (
            lambda address: drip(address, start + b"X: " + b"y" * 200_000, b"y"),
            {400, 0},
        ),
        "slow head": (lambda address: drip(address, start, b"X-A: b\r\n"), {408}),
        "slow body": (
            lambda address: drip(address, start + b"Content-Length: 5000\r\n\r\n", b"z"),
            {408},
        ),
        "gone": (vanish(start + b"Content-Length: 5000\r\n\r\nabc"), {0}),
    }


def vanish(start: bytes) -> Callable[[Address], Answer]:
    """A client who hangs up in the middle of a request."""

    def go(address: Address) -> Answer:
        with socket.create_connection(address) as connection:
            connection.sendall(start)
        return 0, None

    return go


def load(
    server: Server,
    images: dict[Path, Any],
    wrong: dict[str, tuple[Callable[[Address], Answer], set[int]]],
    num_requests: int,
    num_clients: int,
    seed: int = 0,
) -> Counter[str]:
    """Send requests, two of three right, and check every answer.

    Args:
        server: the server.
        images: image files, and what is right about them.
        wrong: see `wrong_requests`.
        num_requests, num_clients: so many requests in all, so many at a time.
        seed: of their order.

    Returns:
        Number of requests by kind.

    Raises:
        AssertionError: an answer is not right; says which.
    """
    paths, kinds = sorted(images), sorted(wrong)
    jobs: list[tuple[str, Path]] = []
    for number in range(num_requests):
        kind = (
            kinds[number // 3 % len(kinds)]
            if number % 3 == 2
            else ("right", "right form")[number % 3]
        )
        jobs.append((kind, paths[number % len(paths)]))
    random.Random(seed).shuffle(jobs)

    def one(job: tuple[str, Path]) -> str:
        kind, path = job
        if kind in wrong:
            do, statuses = wrong[kind]
            status, answer = do(server.address)
            assert status in statuses, f"{kind}: {status} {answer}, expected {statuses}"
            assert not status or len(answer["error"]) > 8, f"{kind}: no reason in {answer}"
            return kind
        data = path.read_bytes()
        body, content = (data, "image/jpeg") if kind == "right" else form(data, path.name)
        status, answer = ask(server.address, "POST", "/predict", body, content)
        assert status == 200, f"{kind} {path}: {status} {answer}"
        assert answer == images[path], f"{kind} {path}: {answer}, predict says {images[path]}"
        return kind

    with ThreadPoolExecutor(num_clients) as clients:
        return Counter(clients.map(one, jobs))


def predicted(model: Path, paths: list[Path]) -> dict[Path, Any]:
    """What `tasks.predict` says of images, without their names."""
    names = "\n".join(map(str, paths))
    done = subprocess.run(
        [sys.executable, "-m", "tasks.predict", str(model), "-"],
        cwd=ROOT, input=names, capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers = {}
    for line in io.StringIO(done.stdout):
        answer = json.loads(line)
        answers[Path(answer.pop("image"))] = answer
    return answers


def main() -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    args = parser.parse_args()
    from components.inference.image_paths import image_paths

    found = image_paths([str(args.images.resolve())], recursive=True)
    paths = [path for path in found if isinstance(path, Path)][:20]
    images = predicted(args.model.resolve(), paths)
    wrong = wrong_requests(paths[0].read_bytes(), 32_000_000)
    options = ("--upload-seconds", str(UPLOAD_SECONDS))
    with running(args.model.resolve(), *options) as server:
        print(f"started: {server.megabytes:.0f} MB")
        sizes = []
        for number in range(args.rounds):
            started = time.perf_counter()
            counts = load(server, images, wrong, args.requests, args.clients, number)
            seconds = time.perf_counter() - started
            sizes.append(server.megabytes)
            right = counts["right"] + counts["right form"]
            print(
                f"round {number + 1}: {right} right, {sum(counts.values()) - right} wrong or slow, "
                f"all answered as they should, {seconds:.0f} s; then {sizes[-1]:.0f} MB, "
                f"{len(psutil.Process(server.process.pid).net_connections())} sockets",
                flush=True,
            )
            if number == 0:
                print(", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
        assert max(sizes) <= 1.1 * sizes[0] + 10, f"memory grows: {sizes}"
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
