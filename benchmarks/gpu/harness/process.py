"""Run one section in a process of its own, so that a crash ends only that section.

An illegal access ends every later call of its process, and a kernel that hangs cannot be ended from
inside. ``python -m benchmarks.gpu.harness.process SECTION …`` is that process; it writes down what
it has after every entry.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.harness.bench import ENDED
from benchmarks.gpu.harness.failures import last_lines
from benchmarks.gpu.harness.schedule import (
    SECTIONS,
    ReportSettings,
    SectionOutcome,
    SectionTask,
    run_here,
)
from benchmarks.measuring.compact_json import compact_json
from sra_fast.tools.atomic import write_text

ROOT = Path(__file__).resolve().parents[3]
GRACE = 6.0  # a section is ended this many seconds after its time
LEAST_SECONDS = 8.0  # a section is not begun with less: its process takes that long to start


def run_apart(task: SectionTask, partial: Path) -> SectionOutcome:
    """Run a section as :func:`schedule.run_here` does, but in new processes.

    A process that fails half-way is followed by another, which leaves out the place where that
    happened and goes on with those after it. A process that is not done soon after its time is
    ended.

    Args:
        task: the section, and everything that it is given.
        partial: the file that holds what was found so far, which outlives this process too.
    """
    start = time.monotonic()
    while True:
        found = _once(task, partial)
        found = replace(found, seconds=time.monotonic() - start)
        further = len(found.entries) > len(task.known)
        if found.status != "failed" or not further or task.ends - time.monotonic() < LEAST_SECONDS:
            return found
        crash = {"error": f"{ENDED}: {found.reason}"}
        known = [entry | crash if entry.get("error") == ENDED else entry for entry in found.entries]
        task = replace(task, known=known)


def _once(task: SectionTask, partial: Path) -> SectionOutcome:
    """Run a section in one new process, as far as that comes."""
    name, settings = task.section.name, task.settings
    write(asdict(SectionOutcome(name, "running", task.known)), partial)
    command = [sys.executable, "-m", "benchmarks.gpu.harness.process", name]
    command += ["--device", settings.device, "--ends", str(task.ends), "--result", str(partial)]
    command += ["--ceilings", json.dumps(dict(task.ceilings))]
    command += ["--quick"] if settings.quick else []
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(settings),
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            in_time = _wait(process, task.ends + GRACE)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # with whatever it may have started
            with contextlib.suppress(subprocess.TimeoutExpired):  # the driver may hold it up
                process.wait(GRACE)
        printed.seek(0)
        output = printed.read().decode(errors="replace")
    found = read_outcome(partial)
    if not in_time:
        return replace(found, status="stopped", reason="it was ended: over its time")
    if found.status == "running":
        status = f"its process ended with status {process.returncode}"
        return replace(found, status="failed", reason=f"{status}: {last_lines(output)}")
    return found


def read_outcome(path: Path) -> SectionOutcome:
    """Read the outcome that a section's process wrote.

    Raises:
        OSError: there is no such file.
    """
    return SectionOutcome(**json.loads(path.read_text("utf-8")))


def write(value: Any, path: Path) -> None:
    """Write a value as JSON, all or nothing, with NaN and infinities as text, which JSON lacks."""
    write_text(path, compact_json(_sayable(value)))


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _sayable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _environment(settings: ReportSettings) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["HF_HUB_OFFLINE"] = "1"
    environment.pop("TRITON_INTERPRET", None)
    if settings.device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    return environment


def _wait(process: subprocess.Popen[bytes], until: float) -> bool:
    """Return whether the process ended by itself before ``until``.

    It is left unreaped, so that its number stays its own.
    """
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while time.monotonic() < until:
        if os.waitid(os.P_PID, process.pid, options) is not None:
            return True
        time.sleep(0.05)
    return False


def main() -> None:
    """Run one section as the program of its process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.harness.process")
    parser.add_argument(
        "section",
        choices=[section.name for section in SECTIONS],
        help="The name of the section to run.",
    )
    parser.add_argument(
        "--device", required=True, help="The device to measure on: cuda, or cpu for a trial."
    )
    parser.add_argument(
        "--ends",
        type=float,
        required=True,
        help="The moment at which the section's time is over, in seconds by time.monotonic.",
    )
    parser.add_argument(
        "--result",
        type=Path,
        required=True,
        help="The JSON file that holds the entries known before and takes the outcome.",
    )
    parser.add_argument(
        "--ceilings",
        type=json.loads,
        required=True,
        help="The ceilings measured so far, as a JSON object.",
    )
    parser.add_argument("--quick", action="store_true", help="Run the section with tiny sizes.")
    options = parser.parse_args()
    section = next(section for section in SECTIONS if section.name == options.section)

    def save(outcome: SectionOutcome) -> None:
        write(asdict(outcome), options.result)

    settings = ReportSettings(options.device, options.quick)
    known = read_outcome(options.result).entries
    save(run_here(SectionTask(section, settings, options.ends, options.ceilings, known), save))


if __name__ == "__main__":
    main()
