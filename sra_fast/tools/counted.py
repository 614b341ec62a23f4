"""Say how many there are of something, in the singular where there is one."""

from __future__ import annotations


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number with its noun, such as ``"1 reply"`` or ``"1,200 replies"``.

    Args:
        number: how many there are.
        one: the noun in the singular, with whatever follows it.
        several: the noun in the plural, with whatever follows it; ``one`` with an "s" if None.
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"
