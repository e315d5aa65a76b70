"""What a browser is shown instead of a problem document: the same, and where to go on."""

from __future__ import annotations

from api.pages.environment import Site, render
from tokenstone.wire import Problem


def problem_html(document: Problem, asked: str) -> str:
    """Return the page of a problem; `asked` is the path and query that led to it. Where a key is missing: a form."""
    if document.status == 401:
        return sign_in_html(asked)
    return render(
        "problem.html.j2", site=Site(""), document=document, where=str((document.model_extra or {}).get("where", ""))
    )


def sign_in_html(wanted: str, *, refused: str = "") -> str:
    """Return the form that asks for a key. `wanted`: the page to go on to; `refused`: why a key was not taken."""
    return render("sign_in.html.j2", site=Site(""), wanted=wanted, refused=refused)
