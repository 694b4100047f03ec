"""Secrets are masked wherever they stand, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from components.hidden import hidden, secrets_of

SECRETS = frozenset({"hunter22", "hunter22-longer"})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("nothing to hide", "nothing to hide"),
        ("key hunter22!", "key ***!"),
        ("hunter22-longer", "***"),  # not what a shorter one leaves of it
        ("https://me:word@host/a", "https://***@host/a"),
        ("https://token@host/a b@c", "https://***@host/a b@c"),
        ("https://host/a@2x.png", "https://host/a@2x.png"),
        ("s3://b/w?X-Amz-Signature=ab%2F&part=1", "s3://b/w?X-Amz-Signature=***&part=1"),
        ("https://h/?monkey=1", "https://h/?monkey=***"),  # rather one too many
        ({"a": ["x hunter22", 3, None], "hunter22": 1.5}, {"a": ["x ***", 3, None], "***": 1.5}),
        (("a", "b"), ["a", "b"]),
    ],
)
def test_what_is_shown(value: Any, shown: Any) -> None:
    assert hidden(value, SECRETS) == shown


def test_which_variables_are_secrets() -> None:
    environment = {
        "MY_API_KEY": "abcdefgh",
        "DB": "postgres://admin:s3cret!!@host/x",
        "SHORT_TOKEN": "ab",  # would be found in any word
        "HOME": "/home/someone",
        "PWD": "/home/someone/here",
        "TIMMFLOW_NOTIFY_URL": "slack://mnopqrst/uv",
        "MYSQL_PWD": "wxyzabcd",
        "SMTP_PASS": "bcdefghi",
        "aws_secret_access_key": "ijklmnop",
    }
    found = secrets_of(environment)
    assert found == {
        *("abcdefgh", "admin:s3cret!!", "s3cret!!", "ijklmnop"),
        *("slack://mnopqrst/uv", "wxyzabcd", "bcdefghi"),
    }
