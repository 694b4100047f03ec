"""Keep secrets out of what is recorded, shown or sent."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

MASK = "***"
# Shorter ones would be found in innocent words.
_SHORTEST = 6
_SECRET_NAME = re.compile(
    r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|AUTH|CONNECTION_STRING|WEBHOOK|NOTIFY"
    r"|COOKIE|DSN|(?:^|_)PASS(?:$|_)|_PWD$",
    re.I,
)
# Of a URL: user and password, and parameters that let in whoever has the link.
_USER = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_QUERY = re.compile(
    r"([?&][\w.-]*(?:key|token|secret|passw|signature|sig|credential|auth)[\w.-]*=)[^&\s#'\"]+",
    re.I,
)


def secrets_of(environment: Mapping[str, str]) -> frozenset[str]:
    """Values of variables that are named like secrets, and the passwords of URLs in others."""
    found = set()
    for name, value in environment.items():
        if _SECRET_NAME.search(name):
            found.add(value)
        for user in _USER.findall(value):
            found.add(user)
            found.add(user.partition(":")[2])
    return frozenset(value for value in found if len(value) >= _SHORTEST)


def hidden(value: Any, secrets: Collection[str]) -> Any:
    """A copy of nested mappings, lists and texts without secrets.

    Args:
        value: of anything else the value itself is given.
        secrets: texts that must not appear; a password or a signature in a URL never does.
    """
    if isinstance(value, str):
        for secret in sorted(secrets, key=len, reverse=True):
            value = value.replace(secret, MASK)
        return _QUERY.sub(rf"\1{MASK}", _USER.sub(MASK, value))
    if isinstance(value, Mapping):
        return {hidden(key, secrets): hidden(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hidden(item, secrets) for item in value]
    return value
