"""How a report looks in a browser."""
