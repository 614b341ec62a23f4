"""Write the page of the documentation that says of every family of transformers how it ends.

Run from the checkout by ``make families``; takes two minutes on one core.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import transformers

from family_outcomes import LENGTHS, NOT_BUILT, TOLERANCE, Outcome, outcome
from shrunken_families import families

PAGE = Path(__file__).resolve().parents[2] / "docs" / "concepts" / "families.md"

_ROW = re.compile(r"^\| `(?P<name>[^`]+)` \| (?P<kind>[\w-]+) \| (?P<text>[^|]+) \|$", re.M)
_WORDS = {"equal": "equal to its own maps", "refused": "refused", "not built": "not tried"}


def written(outcomes: Mapping[tuple[str, str], Outcome]) -> str:
    """Return the page as Markdown."""
    ends = [one.end for one in outcomes.values()]
    largest = max((one.difference or 0.0 for one in outcomes.values()), default=0.0)
    lines = [
        "# Every family of transformers",
        "",
        f"A tiny random model of each family in transformers {transformers.__version__} that is "
        "listed as a causal language model or as a model of images and text was scored on two "
        f"texts of {' and '.join(map(str, LENGTHS))} tokens, and compared with the maps of its own "
        "eager attention, in every layer and head. Windows and chunks are shorter than the texts. "
        "Models of images and text are scored on text alone here.",
        "",
        "| how it ends | families |",
        "|---|---:|",
        f"| equal to its own maps within {TOLERANCE:.0e} (largest difference {largest:.0e}) "
        f"| {ends.count('equal')} |",
        f"| refused by name, before any of your text runs | {ends.count('refused')} |",
        f"| not tried: no tiny model could be built | {ends.count('not built')} |",
        "",
        "A model of any other kind is tried on a few tokens before its first score, and refused by "
        "name if it cannot be served. `make families` writes this page anew; the tests hold it to "
        "what they find.",
        "",
        "| family | kind | result |",
        "|---|---|---|",
    ]
    for (kind, name), one in sorted(outcomes.items(), key=lambda entry: entry[0][::-1]):
        lines.append(f"| `{name}` | {kind} | {described(one)} |")
    return "\n".join(lines) + "\n"


def described(one: Outcome) -> str:
    """Return the last cell of a family's row."""
    return _WORDS[one.end] if one.end == "equal" else f"{_WORDS[one.end]}: {one.detail}"


def rows(page: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield ``(kind, model type)`` and the result of each row of the page."""
    for row in _ROW.finditer(page):
        yield (row["kind"], row["name"]), row["text"]


def main() -> None:
    """Try every family and write the page."""
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    outcomes = {family: outcome(*family) for family in families()}
    wrong = {
        family: one
        for family, one in outcomes.items()
        if one.end == "wrong" or (one.end == "not built" and one.detail not in NOT_BUILT)
    }
    if wrong:
        raise SystemExit("\n".join(f"{family}: {one.detail}" for family, one in wrong.items()))
    PAGE.write_text(written(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main()
