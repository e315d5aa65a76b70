"""Serving the reference model: a latent cache, an engine with continuous batching, a closed loop of requests."""
