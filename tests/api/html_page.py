"""A page as its readers find it, and what every page of ours has to be."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

VOID = {"meta", "input", "link", "img", "br"}
ACTIVE = {"script", "link", "img", "iframe", "object", "embed", "base", "use", "image", "audio", "video"}
"""Tags by which a page would load or run something."""


class Page(HTMLParser):
    """The page as a reader finds it: text, tables, lists of terms; and its tags for the checks of its form."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.terms: list[list[str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self._cell: list[str] | None = None
        self.feed(html)
        self.close()
        assert self.open == [], "tags that were never closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag == "dt":
            self.terms.append([])
        if tag in {"th", "td", "dt", "dd"}:
            self._cell = []

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in {"th", "td", "dt", "dd"} and self._cell is not None:
            text = " ".join(" ".join(self._cell).split())
            (self.tables[-1][-1] if tag in {"th", "td"} else self.terms[-1]).append(text)
            self._cell = None

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if self._cell is not None and "svg" not in self.open:
            self._cell.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def table(self, head: str) -> list[list[str]]:
        """The rows of the table whose first heading begins with `head`."""
        return next(table for table in self.tables if table[0][0].startswith(head))

    def term(self, name: str) -> list[str]:
        """What stands beside a term, each time it is there."""
        return [value for title, value in self.terms if title == name]

    def targets(self) -> list[str]:
        """Where the links lead."""
        return [attributes["href"] or "" for tag, attributes in self.tags if tag == "a"]


def check_form(page: Page) -> None:
    """Assert what holds of every page: inert, and usable without eyes, colours or a mouse."""
    names = [tag for tag, _ in page.tags]
    assert not ACTIVE & set(names)
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "xlink:href", "formaction"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "action"):
            if name in attributes:
                assert re.match(r"[#/](?!/)", attributes[name] or ""), f"{tag} leads elsewhere: {attributes[name]}"
    assert ("html", {"lang": "en"}) in page.tags
    assert "title" in names
    assert names.count("main") == names.count("h1") == 1
    levels = [int(tag[1]) for tag in names if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), levels
    assert all(attributes.get("scope") in {"row", "col"} for tag, attributes in page.tags if tag == "th")
    assert names.count("table") == names.count("caption")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)), {one for one in ids if ids.count(one) > 1}
    labels = {attributes.get("for") for tag, attributes in page.tags if tag == "label"}
    for tag, attributes in page.tags:
        if tag == "svg" and "aria-hidden" not in attributes:
            assert attributes["role"] == "img"
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((attributes.get(name) or "").split()) <= set(ids), attributes
        if tag in {"select", "input"} and attributes.get("type") != "hidden":
            assert attributes.get("aria-label") or attributes.get("id") in labels, attributes
