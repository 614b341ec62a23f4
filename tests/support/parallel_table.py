"""Read the table of the documentation that says what is served of each kind of parallelism."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "concepts" / "parallel-models.md"


def parallel_table() -> dict[str, dict[str, str]]:
    """Return what is said of each kind: `{kind: {"score": "equal" or "refused", …}}`."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("| kind of parallelism |"))
    _, *doors = _cells(lines[first])
    found = {}
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            return found
        kind, *said = _cells(line)
        found[kind.replace("`", "")] = dict(zip(doors, said, strict=True))
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
