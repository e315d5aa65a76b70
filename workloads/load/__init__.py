"""The load generator: makes a spec's requests to any OpenAI-compatible endpoint, and times them. Imports no torch."""
