"""The reference engine behind OpenAI's HTTP protocol."""
