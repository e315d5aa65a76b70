"""API keys: how they are drawn, shown and checked.

A key is `tsk_PREFIX_SECRET`. The prefix is shown in lists and logs; the secret is 256 random bits, shown once and kept
only as a salted SHA-256. A slow hash (scrypt, Argon2) protects passwords, which can be guessed; 256 random bits cannot
be, so it would protect nothing here and cost each request tens of milliseconds.

A browser that signed in with a key holds a session instead: `PREFIX.EXPIRES.MAC`, signed with what the store keeps of
the key. So it ends with the key, every process of the service knows it, and the key cannot be read from it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

SESSION_SECONDS = 12 * 3600
_SESSION = re.compile(r"(tsk_[0-9a-f]{12})\.([0-9]{1,12})\.([0-9a-f]{64})")
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


def session_of(prefix: str, digest: str, expires: int) -> str:
    """A session for the key with that prefix and digest, until `expires` (Unix seconds)."""
    told = f"tokenstone session {prefix} {expires}".encode()
    return f"{prefix}.{expires}.{hmac.new(digest.encode(), told, hashlib.sha256).hexdigest()}"


def read_session(text: str) -> tuple[str, int] | None:
    """The prefix and the expiry that a session names, still to be checked; None where it has not the form of one."""
    found = _SESSION.fullmatch(text)
    return (found[1], int(found[2])) if found else None


def is_session_of(text: str, digest: str) -> bool:
    """Say whether a session was signed for the key of that digest; takes the same time either way."""
    found = read_session(text)
    return found is not None and hmac.compare_digest(session_of(found[0], digest, found[1]), text)
