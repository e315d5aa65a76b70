"""Which optional parts are installed?"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from cli.doctor.finding import Finding, Node

EXTRAS: dict[str, tuple[str, ...]] = {
    "agent": ("nvidia-ml-py", "prometheus-client"),
    "service": ("fastapi", "uvicorn", "sqlalchemy", "alembic", "jinja2"),
    "workloads": ("torch", "numpy", "tokenizers", "aiohttp", "fastapi", "uvicorn"),
}


def check(_: Node) -> Iterable[Finding]:
    """Every extra with its packages' versions; nothing is imported."""
    for extra, packages in EXTRAS.items():
        found, missing = [], []
        for package in packages:
            try:
                found.append(f"{package} {version(package)}")
            except PackageNotFoundError:
                missing.append(package)
        name = f"extra {extra}"
        if missing:
            yield Finding(name, "absent", f"missing {', '.join(missing)}", f"pip install 'tokenstone[{extra}]'")
        else:
            yield Finding(name, "works", ", ".join(found))
