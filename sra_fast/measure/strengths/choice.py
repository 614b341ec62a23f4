"""Choose the strength of a steering from the one argument that is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from sra_fast.kernels.steering import expect_number
from sra_fast.measure.strengths.given_bias import GivenBias
from sra_fast.measure.strengths.held_share import HeldShare
from sra_fast.measure.strengths.instaboost import InstABoost
from sra_fast.measure.strengths.pasta import Pasta
from sra_fast.measure.strengths.spotlight import Spotlight
from sra_fast.measure.strengths.strength import Strength

_WAYS: dict[str, Callable[[float], Strength]] = {
    "bias": GivenBias,
    "share": HeldShare,
    "knock_out": lambda _: GivenBias(-math.inf),
    "instaboost": InstABoost,
    "spotlight": Spotlight,
    "pasta": Pasta,
}


def chosen_strength(arguments: Mapping[str, Any], exact: bool) -> Strength:
    """Return the strength that the one given argument asks for.

    Args:
        arguments: what :func:`sra_fast.steer` was given by the names of the ways; None and False
            are not given.
        exact: whether a share is met exactly.

    Raises:
        TypeError: it is no number.
        ValueError: none or several are given, one that cannot be, or ``exact`` without a share.
    """
    given = {
        name: value for name, value in arguments.items() if value is not None and value is not False
    }
    if len(given) != 1:
        *names, last = _WAYS
        raise ValueError(f"steer: give one of {', '.join(names)} and {last}")
    ((name, value),) = given.items()
    if name != "knock_out":
        expect_number(name, value)
    if not exact:
        return _WAYS[name](value)
    if name != "share":
        raise ValueError(f"steer: exact says how share is meant; it does not go with {name}")
    return HeldShare(value, exact=True)
