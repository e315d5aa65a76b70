"""Tokenstone: what does a token really cost on this cluster, and where did the rest of the money go?"""

__version__ = "0.1.0"
