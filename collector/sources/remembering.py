"""A source that remembers what it gave last, for sources that put others' findings together."""

from __future__ import annotations

from collector.sources.base import Parts, Source


class Remembering(Source):
    """Reads another source and keeps its latest Parts in `latest`; a failure leaves none."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name, self.metrics, self.measures = source.name, source.metrics, source.measures
        self.every_seconds, self.deadline_seconds = source.every_seconds, source.deadline_seconds
        self.latest = Parts()

    def read(self) -> Parts:
        """Read it; raises what it raises."""
        latest, self.latest = Parts(), Parts()
        try:
            latest = self.source.read()
            return latest
        finally:
            self.latest = latest  # one assignment: other threads see the whole or nothing

    def close(self) -> None:
        """Close it."""
        self.latest = Parts()
        self.source.close()

    def doing(self) -> str:
        """As the source itself."""
        return self.source.doing()
