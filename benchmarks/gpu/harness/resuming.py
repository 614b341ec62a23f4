"""Find what an earlier run left in a folder, and tell whether the same report would go on there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.harness.bench import BAD, Entry
from benchmarks.gpu.harness.process import ROOT, read_outcome
from benchmarks.gpu.harness.schedule import SECTIONS, SectionOutcome

IDENTITY = {
    "card": "the card",
    "versions": "the versions",
    "code": "the code",
    "quick": "the sizes",
}
"""The facts that must agree for a report to go on, and what they are called."""

_CODE = ("kernels", "sra_fast", "training", "benchmarks")


class OtherReportError(ValueError):
    """Raised when a folder holds the report of another card, other versions or other code."""


def code_digest() -> str:
    """Return 12 hexadecimal digits that change with any Python file of this checkout.

    Unlike a commit it is known without git and covers changes that were not committed.
    """
    digest = hashlib.sha256()
    for folder in _CODE:
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{file.relative_to(ROOT)}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def partial_file(folder: Path, section: str) -> Path:
    """Return the file that a section's process writes while it runs."""
    return folder / f"{section}.partial.json"


def earlier(folder: Path, facts: Mapping[str, Any]) -> dict[str, SectionOutcome]:
    """Return the outcomes that a folder holds, by section; none if there is no report in it.

    Args:
        folder: where the results are.
        facts: the facts of the run that is to go on there.

    Raises:
        OtherReportError: the report there is of something else.
    """
    results = folder / "results.json"
    outcomes: dict[str, SectionOutcome] = {}
    if results.exists():
        try:
            held = json.loads(results.read_text("utf-8"))
            known = {name: SectionOutcome(**one) for name, one in held["sections"].items()}
            old = held["facts"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OtherReportError(
                f"{results.name} in {folder} is no result of this report ({error}); name another "
                "folder, or delete this one"
            ) from error
        _require_the_same(folder, old, facts)
        outcomes |= known
    for section in SECTIONS:
        partial = partial_file(folder, section.name)
        if partial.exists() and results.exists():  # without results its code would be unknown
            outcomes[section.name] = read_outcome(partial)
    return outcomes


def good_entries(outcome: SectionOutcome | None) -> Sequence[Entry]:
    """Return the entries that need not be measured again."""
    return [] if outcome is None else [one for one in outcome.entries if not BAD & one.keys()]


def _require_the_same(folder: Path, old: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    for name, words in IDENTITY.items():
        if old.get(name) != facts[name]:
            raise OtherReportError(
                f"{folder} holds a report that cannot be continued: {words} differ "
                f"({old.get(name)} there, {facts[name]} here); name another folder, or delete this "
                "one to begin anew"
            )
