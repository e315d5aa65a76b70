"""Which page of the cache belongs to whom. Pure bookkeeping: no tensors.

A page holds the latents of `page_tokens` consecutive tokens. A full page has a key: a digest of its tokens and of the
key of the page before it, so equal keys mean equal prefixes. Requests that share a prefix share its pages; a page is
only ever written by the request that took it, before it has a key. Pages that nobody uses any more keep their keys
and are found again until they are needed for something else, the least recently used first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence


def page_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Digest of a full page after the page with key `parent` (b"" for the first one)."""
    return hashlib.blake2b(parent + array("q", tokens).tobytes(), digest_size=16).digest()


class PageAllocator:
    """Hands out pages 0 ... `pages` - 1 with reference counts."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self._free = list(range(pages - 1, -1, -1))
        self._references = [0] * pages
        self._key_of: dict[int, bytes] = {}
        self._page_of: dict[bytes, int] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()
        """Pages with a key that nobody holds, the least recently used first."""

    @property
    def available(self) -> int:
        """Pages that can be taken: free ones, and those kept only for their contents."""
        return len(self._free) + len(self._unused)

    @property
    def used(self) -> int:
        """Pages that some request holds."""
        return self.pages - self.available

    @property
    def kept(self) -> int:
        """Pages that nobody holds and whose contents can still be found."""
        return len(self._unused)

    def take(self) -> int | None:
        """Return a page to write to, or None where all are held."""
        if self._free:
            page = self._free.pop()
        elif self._unused:
            page, _ = self._unused.popitem(last=False)
            del self._page_of[self._key_of.pop(page)]
        else:
            return None
        self._references[page] = 1
        return page

    def find(self, key: bytes) -> int | None:
        """Return the page with this key, without holding it."""
        return self._page_of.get(key)

    def hold(self, page: int) -> None:
        """Share a page that was found."""
        if not self._references[page]:
            del self._unused[page]
        self._references[page] += 1

    def publish(self, page: int, key: bytes) -> None:
        """Let others find a page that is now full. Where an equal one is known, that one stays the known one."""
        if key not in self._page_of and page not in self._key_of:
            self._page_of[key] = page
            self._key_of[page] = key

    def is_unused(self, page: int) -> bool:
        """Whether nobody holds the page: holding it makes one page fewer available."""
        return not self._references[page]

    def give_back(self, pages: Sequence[int]) -> None:
        """Let go of a request's pages. The last ones are forgotten first: beginnings are shared more often."""
        for page in reversed(pages):
            self._references[page] -= 1
            if self._references[page]:
                continue
            if page in self._key_of:
                self._unused[page] = None
            else:
                self._free.append(page)

    def forget(self) -> None:
        """Drop all contents that nobody holds."""
        for page in self._unused:
            del self._page_of[self._key_of.pop(page)]
            self._free.append(page)
        self._unused.clear()
