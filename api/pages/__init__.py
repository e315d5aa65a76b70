"""How reports and the service look in a browser."""

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
}
"""A page of figures: it loads nothing, runs nothing, sends its forms nowhere else and is framed by nobody."""
