"""The model: DeepSeek-style mixture of experts with latent attention, on one device, readable.

Read in this order: config, attention, router, experts, model.
"""
