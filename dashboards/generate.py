"""Write the boards as the JSON that Grafana reads: `make dashboards`, or `python -m dashboards.generate`."""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.boards import BOARDS

FOLDER = Path(__file__).parent / "json"


def documents() -> dict[str, str]:
    """Return the text of every board's file, by its name."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {f"{name}.json": encoder.encode(make().build()) + "\n" for name, make in BOARDS.items()}


def main() -> None:
    """Write all files, and take away those of boards that are no more."""
    FOLDER.mkdir(exist_ok=True)
    made = documents()
    for path in FOLDER.glob("*.json"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
