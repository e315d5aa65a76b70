"""How a report looks in a browser."""

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
}
"""A page of figures: it loads nothing, runs nothing and is framed by nobody."""
