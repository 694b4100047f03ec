"""Retraining with a remote in S3, which is a moto server on loopback."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from retrain_repository import RetrainToy, retrained


@pytest.fixture
def toy(first: RetrainToy, tmp_path: Path) -> RetrainToy:
    return first.copied(tmp_path)


def dvc(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    """A client of an S3 on loopback, and its address."""
    reason = "S3 is not tested: `make setup` installs what it needs"
    server = pytest.importorskip("moto.server", reason=reason)
    pytest.importorskip("dvc_s3", reason=reason)
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-bucket",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=address)
    client.create_bucket(Bucket="store")
    yield client, address
    running.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # botocore's and moto's own
def test_s3(
    s3: tuple[Any, str], toy: RetrainToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, address = s3
    for words in (
        ["add", "-d", "store", "s3://store/timmflow"],
        ["modify", "store", "endpointurl", address],
        ["modify", "store", "verify", "true"],
    ):
        assert dvc(toy.root, "remote", *words).returncode == 0
    toy.git("commit", "-qam", "a remote")
    toy.commit("0.7")
    result, outcomes = retrained(toy)
    assert (result["outcome"], outcomes["push"]) == ("promoted", "done")

    keys = [item["Key"] for item in client.list_objects_v2(Bucket="store")["Contents"]]
    bodies = [client.get_object(Bucket="store", Key=key)["Body"].read() for key in keys]
    assert b"0.74" in bodies
    config = (toy.root / ".dvc" / "config").read_text() + toy.git("log", "-p", "--all")
    assert "secret-of-the-bucket" not in config

    # Another machine: nothing of this one's but git, the bucket and its key.
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    there = tmp_path / "there"
    toy.git("clone", "-q", "--branch", "model@v1.1.0", str(toy.root), str(there))
    pulled = dvc(there, "pull")
    assert pulled.returncode == 0, pulled.stderr
    status = dvc(there, "status", "--json")
    assert status.stdout.strip() == "{}", status.stderr
    assert (there / "models/model.onnx").read_text() == "0.74"
    # What has changed in the bucket is not taken: `verify` is on.
    [key] = [key for key, body in zip(keys, bodies, strict=True) if body == b"0.74"]
    client.put_object(Bucket="store", Key=key, Body=b"0.99")
    for place in (there / ".dvc/cache", there / "models", there / "out"):
        shutil.rmtree(place)
    pulled = dvc(there, "pull")
    assert pulled.returncode != 0
    assert not (there / "models/model.onnx").exists()
