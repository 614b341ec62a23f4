"""Name the scenes that sections measure and that targets are judged at."""

from __future__ import annotations

ONE = "one reply"
MANY = "many replies"
SPAN = "a short span, last rows"
HALF = "half the prompt, every row"
PARTS_OF_A_SCORE = "parts of a score"

FUSED_KINDS = ("forward and backward", "mass alone", "mass from lse", "decoding step")
FAR_ROWS, FAR_STRIDES = "offsets over many batch rows", "offsets within a sequence"
FAR = (FAR_ROWS, FAR_STRIDES)
ROWS_GRADIENT = "gradient of the mass from rows"
PROFILE_GRADIENT = "gradient of profiles"
KINDS = (*FUSED_KINDS, ROWS_GRADIENT, PROFILE_GRADIENT)
"""The kinds of work of this project's kernels; each must give the same bits again and again."""
