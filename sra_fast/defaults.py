"""Defaults that several places share, free of imports so that the command line starts at once."""

FORWARD_TOKENS = 16384
"""Most tokens of one forward pass, unless one sequence is longer: bounds the memory."""
