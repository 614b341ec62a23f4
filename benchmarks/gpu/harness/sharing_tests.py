"""Let several pytest processes share the tests: a plugin that keeps every n-th test.

``-p benchmarks.gpu.harness.sharing_tests`` loads it, and the environment variable says which share
of how many this process has, ``"3/12"``. It takes the place of pytest-xdist where that is missing.
"""

from __future__ import annotations

import os
from typing import Any

SHARE = "GPU_REPORT_SHARE"


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave the tests of this process's share, and report the others as deselected."""
    number, count = (int(part) for part in os.environ[SHARE].split("/"))
    others = [item for place, item in enumerate(items) if place % count != number]
    items[:] = items[number::count]
    config.hook.pytest_deselected(items=others)
