"""Lets Tokenstone start its own parts as `python -P -m cli`, whatever is on PATH."""

from cli.main import main

main()
