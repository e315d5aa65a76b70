"""The scores: one formula per file, each with its derivation and a worked example."""
