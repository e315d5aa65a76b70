"""Probes: the roofline of this device, measured, for hardware that no catalogue row knows."""
