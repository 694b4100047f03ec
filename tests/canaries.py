"""Twenty secrets, to be looked for afterwards wherever something is recorded, shown or sent."""

from __future__ import annotations

import base64
import io
import re
import zipfile
from collections.abc import Iterator

CANARIES = {
    "WANDB_API_KEY": "canary00" * 5,
    "AWS_SECRET_ACCESS_KEY": "canary01",
    "AWS_SESSION_TOKEN": "canary02",
    "GITHUB_TOKEN": "canary03",
    "PREFECT_API_KEY": "canary04",
    "DB_PASSWORD": "canary05",
    "SLACK_WEBHOOK_URL": "https://hooks.example/canary06",
    "MAIL_PASSPHRASE": "canary07",
    "AZURE_STORAGE_CONNECTION_STRING": "canary08",
    "GOOGLE_CREDENTIALS": "canary09",
    "DATABASE_URL": "postgres://admin:canary10@db.example/x",
    "HTTPS_PROXY_LOGIN": "http://canary11:canary12@proxy.example",
    "HF_TOKEN": "canary13",
    "SMTP_AUTH": "canary14",
}
# What a person may write into parameters.
TOLD = {
    "of the environment": [f"key {value}" for value in CANARIES.values()],
    "data": "https://reader:canary15@data.example/set",
    "weights": "s3://bucket/w?X-Amz-Signature=canary16&part=1",
    "hub": "https://canary17@git.example/repo",
    "link": "https://files.example/a?token=canary18#x",
    "note, see https://x.example/y?api_key=canary19": 1,
}


def found_in(content: bytes) -> list[str]:
    """Canaries in it."""
    return sorted({found.decode() for found in re.findall(rb"canary\d\d", content)})


def found_unpacked(content: bytes) -> list[str]:
    """Canaries in it, or in what is packed in it: a checkpoint's members, a page's pictures."""
    return sorted({canary for part in _unpacked(content) for canary in found_in(part)})


def _unpacked(content: bytes) -> Iterator[bytes]:
    yield content
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as parts:
            for name in parts.namelist():
                yield from _unpacked(parts.read(name))
    for part in re.findall(rb";base64,([A-Za-z0-9+/]+=*)", content):
        yield from _unpacked(base64.b64decode(part))
