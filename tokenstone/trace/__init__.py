"""Profiler traces of anyone's job, read into the same ledger. Needs numpy and msgspec (the extra `trace`)."""
