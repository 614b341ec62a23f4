"""Describe the card, the driver and the versions that the report was made on.

Nothing in it names a machine or a folder.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from typing import Any

import torch

from sra_fast.files.provenance import commit
from sra_fast.kernels.measured_table import card as dispatch_card

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "peft",
    "accelerate",
    "numpy",
    "pytest",
    "matplotlib",
)
QUERIED = (
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
)


def facts(device: str) -> dict[str, Any]:
    """Return the facts about the card, the driver and the versions, as far as they can be had."""
    found: dict[str, Any] = {
        "device": device,
        "card": name(device),
        "dispatch_card": dispatch_card(torch.device(device)),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit(),
        "autotuned": os.environ.get("SRA_FAST_AUTOTUNE") == "1",
        "python": platform.python_version(),
        # torch says which build it is, which the version of its package may leave out.
        "versions": {package: _version(package) for package in PACKAGES}
        | {"torch": torch.__version__},
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": properties.total_memory / 1e9,
            "l2_mb": getattr(properties, "L2_cache_size", 0) / 1e6,
            "cuda": torch.version.cuda or f"HIP {torch.version.hip}",
            "cudnn": torch.backends.cudnn.version(),
            "state": state(),
        }
    return found


def name(device: str) -> str:
    """Return the card's name, as the driver says it."""
    return torch.cuda.get_device_name(0) if device == "cuda" else "CPU"


def slug(card: str) -> str:
    """Return a card's name as a part of a folder's name: "NVIDIA H200" -> "h200"."""
    words = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    return words.removeprefix("nvidia-") or "gpu"


def state() -> dict[str, str]:
    """Return driver, clocks, power and temperature from nvidia-smi, or nothing without it."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERIED)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.splitlines()[0].split(",")]
    return dict(zip(QUERIED, values, strict=False))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
