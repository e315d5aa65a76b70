"""The agent on every node: it measures, keeps what it measured, and hands it over. It never judges."""
