"""Being another user: the images' user has the rights of nobody in particular."""

import os
import sys
from pathlib import Path

import pytest

USER = 10001


def others_may_read(path: str) -> bool:
    """Whether a user who owns nothing here gets to the path: a home folder may be closed to others."""
    place = Path(path).resolve()
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in (place, *place.parents))


needs_another_user = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(others_may_read, filter(os.path.isdir, {sys.prefix, sys.base_prefix, *sys.path}))),
    reason="only root can become the images' user, who must be able to read this interpreter and its packages",
)
