"""Defaults that several places share, free of imports so that the command line starts at once."""

FORWARD_TOKENS = 16384
"""Most tokens of one forward pass, unless one sequence is longer: bounds the memory."""

TEST_SHARE, VALIDATION_SHARE = 100 / 1297, 50 / 1297
"""Of the dialogues that are extended; the paper's."""
