"""The command line: the composition root, which alone knows all the applications."""
