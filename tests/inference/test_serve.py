"""`python -m tasks.serve` as its clients meet it, hostile ones among them; all on loopback."""

import asyncio
import base64
import hashlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from fastapi import Request
from PIL import Image
from tiny_models import CLASSES, write_model

from benchmarks.serve_load import ask, form, load, predicted, running, wrong_requests
from components.export.predictor import OnnxPredictor
from components.inference.http_app import _Work, loopback_names
from components.inference.http_body import form_parts
from components.inference.http_limits import Limits, RefusedError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(6):
        pixels = rng.integers(0, 256, (3 + number, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((90, 70)).save(folder / f"{number}.jpg", quality=90)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "access.log"


@pytest.fixture(scope="module")
def server(model, log):
    options = ("--upload-seconds", "3", "--max-megabytes", "1")
    with running(model, *options, log=log) as started:
        yield started


def test_right_and_wrong_clients_at_once(server, model, photos):
    """The quick version of `benchmarks/serve_load.py`, every way to be wrong once a round."""
    images = predicted(model, photos)
    wrong = wrong_requests(photos[0].read_bytes(), 1_000_000, side=8100)
    sizes = []
    for seed in range(2):
        counts = load(server, images, wrong, 3 * len(wrong), 8, seed)
        assert set(counts) == {"right", "right form", *wrong}
        sizes.append(server.megabytes)
    assert max(sizes) < sizes[0] + 8, sizes
    status, health = ask(server.address, "GET", "/healthz")
    assert (status, health["status"]) == (200, "ok")
    while ask(server.address, "GET", "/healthz")[1]["free"] != 16:
        time.sleep(0.05)  # whoever hung up is noticed in a moment


def fetched(address, path="/", headers=None, method="GET", body=None):
    with closing(http.client.HTTPConnection(*address, timeout=600)) as connection:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing_else(server):
    status, headers, page = fetched(server.address)
    assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"(src|href)=[\"'](?!data:)|https?:|@import|url\(|style=| on\w+=", page)
    assert '<meta name="viewport"' in page and 'lang="en"' in page
    assert "prefers-color-scheme: dark" in page


def test_metadata(server):
    status, said = ask(server.address, "GET", "/metadata")
    assert status == 200
    assert (said["task"], said["classes"], said["threshold"]) == ("detection", CLASSES, 0.3)
    assert said["model"]["image_size"] == [32, 32] and said["model"]["license"] == "MIT"
    assert said["limits"] == {"max_bytes": 1_000_000, "max_pixels": 64_000_000}


def test_a_threshold_of_ones_own(server, photos):
    data = photos[0].read_bytes()
    for threshold, number in ((0, 3), (1, 0)):
        path = f"/predict?threshold={threshold}"
        status, answer = ask(server.address, "POST", path, data, "image/jpeg")
        assert status == 200 and len(answer["detections"]) == number


def test_two_requests_on_one_connection_also_at_once(server, photos):
    data = photos[0].read_bytes()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    with socket.create_connection(server.address, timeout=600) as connection:
        request = head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + data
        connection.sendall(request * 2 + b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert received.count(b'"detections"') == 2 and received.endswith(b'"free":16}')


@pytest.mark.parametrize("name", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "["])
def test_a_name_made_to_lead_to_loopback_gets_nothing(server, name):
    status, _, text = fetched(server.address, headers={"Host": name})
    assert status == 421 and "loopback" in text
    for own in ("localhost:1", "127.0.0.1", "[::1]:80"):
        assert fetched(server.address, "/healthz", {"Host": own})[0] == 200


def test_names_of_hosts():
    assert loopback_names("0.0.0.0") is None and loopback_names("example.org") is None
    assert "127.0.0.9" in (loopback_names("127.0.0.9") or ())


def test_the_log_has_no_secrets(server, log, photos):
    secret = "s3cr3t"
    headers = {"Authorization": f"Bearer {secret}", "Cookie": secret, "Content-Type": "image/png"}
    data = photos[0].read_bytes()
    path = f"/predict?key={secret}&threshold=0.5"
    assert fetched(server.address, path, headers, "POST", data)[0] == 200
    assert fetched(server.address, f"/{secret}%0Aforged")[0] == 404
    assert fetched(server.address, "/", {"X": secret}, method=secret.upper())[0] == 405
    text = log.read_text()
    assert secret not in text.lower() and "forged" not in text
    assert re.search(r"127\.0\.0\.1 POST /predict 200 \d+ B \d+ ms\n", text)
    assert re.search(r"127\.0\.0\.1 GET - 404 \d+ B \d+ ms\n", text)
    assert "Traceback" not in text


def half_sent(address, data):
    """A connection on which half of a request has been sent, and the other half."""
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    connection = socket.create_connection(address, timeout=600)
    connection.sendall(head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + data[:100])
    return connection, data[100:]


def test_busy_is_said_and_passes(model, photos):
    """Requests beyond the limit and connections beyond theirs: 503 with Retry-After."""
    data = photos[0].read_bytes()
    with running(model, "--max-requests", "2") as server:
        held = [half_sent(server.address, data) for _ in range(2)]
        while ask(server.address, "GET", "/healthz")[1]["free"]:
            time.sleep(0.02)
        jpeg = {"Content-Type": "image/jpeg"}
        for _ in range(3):
            status, headers, text = fetched(server.address, "/predict", jpeg, "POST", data)
            assert (status, headers["retry-after"]) == (503, "1") and "busy" in text
        assert fetched(server.address)[0] == 200  # what takes no work is not refused
        for connection, rest in held:
            connection.sendall(rest)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
            connection.close()
        assert fetched(server.address, "/predict", jpeg, "POST", data)[0] == 200

        idle = [socket.create_connection(server.address, timeout=600) for _ in range(64)]
        status, headers, text = fetched(server.address)
        assert (status, headers["retry-after"]) == (503, "1") and "connections" in text
        for connection in idle:
            connection.close()
        while True:
            try:
                if fetched(server.address)[0] == 200:
                    break
            except ConnectionResetError:
                time.sleep(0.02)


def test_sigterm_lets_what_was_begun_be_answered(model, photos):
    data = photos[0].read_bytes()
    with running(model) as server:
        (connection, rest), idle = (
            half_sent(server.address, data),
            socket.create_connection(server.address, timeout=600),
        )
        while ask(server.address, "GET", "/healthz")[1]["free"] == 16:
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        assert idle.recv(100) == b""  # told at once
        with pytest.raises(ConnectionRefusedError):
            while True:
                socket.create_connection(server.address, timeout=600).close()
        connection.sendall(rest)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert server.process.wait(600) == 0
        connection.close()
        idle.close()


def request_with(body: bytes) -> Request:
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "headers": [(b"content-type", b"image/png")]}, receive)


def test_an_answer_that_takes_too_long_is_given_up_and_its_place_kept(model, photos, monkeypatch):
    """The client hears 503; the place is free only when the work is over."""
    over = threading.Event()
    monkeypatch.setattr(OnnxPredictor, "prepare", lambda self, image: over.wait(600) and 1 / 0)
    data = photos[0].read_bytes()

    async def run():
        work = _Work(OnnxPredictor(model), Limits(predict_seconds=0.1, max_requests=3))
        asked = [work.answer(request_with(data), None) for _ in range(4)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        free = work.slots.free
        over.set()
        while work.slots.free < 3:
            await asyncio.sleep(0.01)
        return [error.reason for error in outcomes], free

    reasons, free = asyncio.run(run())
    assert sorted(reason[:9] for reason in reasons) == ["no answer"] * 3 + ["the serve"]
    assert free == 2  # those that had not begun never will


PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "contents"),
    [
        (PART + b"abc\r\n--b--\r\n", [b"abc"]),
        (b"preamble\r\n" + PART + b"abc\r\n--b--", [b"abc"]),
        (b"--b  \r\n\r\nno headers\r\n--b--", [b"no headers"]),
        (PART + b"\r\n\r\n--c \r\n--\r\n--b--", [b"\r\n\r\n--c \r\n--"]),
        (PART + b"x\r\n" + PART + b"y\r\n--b--", [b"x", b"y"]),
        (PART + b"\r\n--b--", [b""]),
        (b"--b--\r\n", []),
    ],
)
def test_parts_of_a_form(body, contents):
    parts = list(form_parts(body, b"b"))
    assert [content for _, content in parts] == contents
    for head, _ in parts:
        assert head.get_filename() in ("a.png", None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "before its last boundary"),
        (PART + b"abc", "before its last boundary"),
        (PART + b"abc\r\n--b", "before its last boundary"),
        (b"--b\r\nX: y\r\n--b--", "without the empty line"),
        (b"--bb", "before its last boundary"),
        ((PART + b"\r\n") * 17 + b"--b--", "more than 16 parts"),
        # Python's parser would need days for the headers of a body that is not too large.
        (b"--b\r\nA: b" + b";" * 3000 + b"\r\n\r\nabc\r\n--b--", "headers have more than 2048"),
    ],
)
def test_what_is_no_form(body, reason):
    with pytest.raises(RefusedError, match=reason) as refusal:
        list(form_parts(body, b"b"))
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (*form(b"x" * 9), "not an image"),
        (form(b"x")[0].replace(b"--xyz--", form(b"y")[0]), form(b"")[1], "2 files"),
        (b"--xyz--\r\n", form(b"")[1], "0 files"),
        (b"x", "multipart/form-data", "no boundary"),
        (b"x", "multipart/form-data; boundary=" + "x" * 3000, "more than 2048 characters"),
        (b"x", "multipart/form-data; boundary=\xff", "before its last boundary"),
    ],
)
def test_forms_that_hold_no_one_image(server, body, kind, reason):
    status, answer = ask(server.address, "POST", "/predict", body, kind)
    assert status in (400, 422) and reason in answer["error"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["gone.onnx"], "gone.onnx: no such model file"),
        (["{model}", "--port", "{taken}"], "port {taken}: Address already in use"),
        (["{model}", "--host", "203.0.113.1"], "203.0.113.1 port"),
    ],
)
def test_a_server_that_cannot_start_says_why(server, model, arguments, reason):
    names = {"model": str(model), "taken": str(server.address[1])}
    command = [sys.executable, "-m", "tasks.serve", *(a.format(**names) for a in arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: serve: ") and reason.format(**names) in done.stderr


def test_serving_needs_no_torch():
    code = (
        "import sys, tasks.serve\n"
        "assert not {'fastapi', 'onnxruntime', 'PIL'} & set(sys.modules)\n"
        "import components.inference.http_app\n"
        "print(json.dumps([m for m in ('torch', 'timm', 'pandas') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import json\n" + code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and json.loads(done.stdout) == [], done.stderr
