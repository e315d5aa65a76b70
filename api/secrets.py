"""API keys: how they are drawn, shown and checked.

A key is `tsk_PREFIX_SECRET`. The prefix is shown in lists and logs; the secret is 256 random bits, shown once and kept
only as a salted SHA-256. A slow hash (scrypt, Argon2) protects passwords, which can be guessed; 256 random bits cannot
be, so it would protect nothing here and cost each request tens of milliseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

_FORM = re.compile(r"tsk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class NewKey(NamedTuple):
    """A key just drawn: `text` is for its owner, the rest is for the store."""

    text: str
    prefix: str
    salt: str
    digest: str


def draw_key() -> NewKey:
    """Draw a key from the system's random source."""
    prefix, secret, salt = secrets.token_hex(6), secrets.token_urlsafe(32), secrets.token_hex(16)
    return NewKey(f"tsk_{prefix}_{secret}", f"tsk_{prefix}", salt, _digest(secret, salt))


def prefix_of(text: str) -> str | None:
    """The prefix of what may be a key, or None where it has not the form of one."""
    found = _FORM.fullmatch(text)
    return f"tsk_{found[1]}" if found else None


def is_secret_of(text: str, salt: str, digest: str) -> bool:
    """Say whether the key `text` is the one whose salt and digest are kept; takes the same time either way."""
    found = _FORM.fullmatch(text)
    return found is not None and hmac.compare_digest(_digest(found[2], salt), digest)


def _digest(secret: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}:{secret}".encode()).hexdigest()
