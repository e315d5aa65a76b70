"""The load generator: makes the requests of a spec to any OpenAI-compatible endpoint, and times them. Imports no torch."""
