"""Say where the real ESConv files are, if they are: their licence keeps them out of the project."""

from __future__ import annotations

import os
from pathlib import Path

_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data" / "esconv"
ESCONV = Path(os.environ.get("SRA_FAST_ESCONV", _BESIDE))
WHY_ABSENT = "no ESConv files (CC BY-NC, not shipped); name their folder in SRA_FAST_ESCONV"
