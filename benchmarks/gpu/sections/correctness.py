"""Run the kernels' tests on the GPU, a memory checker, and PyTorch's flash kernel over their cases.

The tests run as their own process, in several workers where pytest-xdist is installed: most of
their time is compiling. Beside them, the kernels that are timed later are compiled into Triton's
cache. All is over before anything is timed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from benchmarks.gpu.harness import checking
from benchmarks.gpu.harness.bench import LEAST_SECONDS, QUICK, Bench, Entry
from benchmarks.gpu.harness.failures import WrongResultError, describe, last_lines, plain, recover
from sra_fast import span_attention

ROOT = Path(__file__).resolve().parents[3]
TESTS = ("kernels/test_triton_kernels.py", "kernels/test_triton_models.py")
QUICK_TESTS = "scales"  # selects the tests by pytest's -k
MOST_WORKERS = 14
MOST_NAMES = 20  # names of failed tests in the record
SPARE_SECONDS = 25.0  # kept for what comes after the tests
SANITIZERS = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")
SANITIZER_SECONDS = 120.0  # the checker runs beside the tests, so this costs no time
MASS_TOLERANCE, LSE_TOLERANCE = 2e-4, 1e-3  # float32; a wrong key or row is off by far more
MEMORY_ERROR = 86  # the memory checker's exit status if it finds an error

_OUTCOME = "PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS"
_WORKER_LINE = re.compile(rf"^\[gw\d+\]\s+\[\s*\d+%\]\s+({_OUTCOME})\s+(\S.*?)\s*$")
_PLAIN_LINE = re.compile(rf"^(\S+::.*?)\s+({_OUTCOME})\b.*$")
_REASON_LINE = re.compile(r"^(?:FAILED|ERROR) (\S+?::.*?|\S+) - (.*)$")


@dataclass(frozen=True)
class Started:
    """A running process, and the file with what it prints."""

    process: subprocess.Popen[bytes]
    printed: IO[bytes]

    def output(self) -> str:
        """Return what the process has printed so far."""
        number = self.printed.fileno()  # the process writes at the file's position: left alone
        return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace")


def run(bench: Bench) -> None:
    """Run the tests, the memory checker, the compiling, and then the grid of backend ``lse``."""
    which = "some tests" if bench.sizes is QUICK else "tests"
    places = {which: _tests, "memory check of one small case": _memory_check, "compiling": _compile}
    with (
        _started(_pytest(bench)) as tests,
        _started(_checker(bench)) as checker,
        _started(_compiler(bench)) as compiler,
    ):
        started = dict(zip(places, (tests, checker, compiler), strict=True))

        def measure(bench: Bench, entry: Entry, seconds: float) -> None:
            process = started[entry["what"]]
            if process is None:
                entry["absent"] = "there is nothing to do it with here"
            else:
                places[entry["what"]](bench, entry, process)

        bench.each([{"what": name} for name in places], measure)
    part = "some of " if bench.sizes is QUICK else ""
    bench.each([{"what": f"backend lse over {part}the tests' grid"}], _grid)


def _pytest(bench: Bench) -> list[str]:
    files = [str(ROOT / "tests" / name) for name in TESTS]
    command = [sys.executable, "-m", "pytest", *[file for file in files if Path(file).exists()]]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command += ["-v", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
    if bench.sizes is QUICK:
        command += ["-k", QUICK_TESTS]
    elif importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(max(1, min((os.cpu_count() or 1) - 2, MOST_WORKERS)))]
    return command


def _checker(bench: Bench) -> list[str] | None:
    found = next((path for path in map(shutil.which, SANITIZERS) if path), None)
    if found is None or bench.device.type != "cuda":
        return None
    options = ["--tool", "memcheck", "--error-exitcode", str(MEMORY_ERROR)]
    return [found, *options, sys.executable, "-m", "benchmarks.gpu.sections.every_kernel"]


def _compiler(bench: Bench) -> list[str] | None:
    if bench.device.type != "cuda" or bench.sizes is QUICK:
        return None
    return [sys.executable, "-m", "benchmarks.gpu.sections.every_kernel", "--full"]


@contextmanager
def _started(command: list[str] | None) -> Iterator[Started | None]:
    """Start a process inside ``with``, which is ended when ``with`` is left.

    What the process started itself may need a while more to end.
    """
    if command is None:
        yield None
        return
    environment = {**os.environ, "COLUMNS": "400"}
    if "memcheck" in command:
        # With the cache, blocks are so large that accesses past a tensor's end go unnoticed.
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            command, stdout=printed, stderr=subprocess.STDOUT, env=environment
        )
        try:
            yield Started(process, printed)
        finally:
            process.kill()
            process.wait()


def _finished(started: Started, seconds: float) -> bool:
    try:
        started.process.wait(max(seconds, 0.0))
    except subprocess.TimeoutExpired:
        return False
    return True


def _tests(bench: Bench, entry: Entry, started: Started) -> None:
    begun = time.monotonic()
    finished = _finished(started, bench.left - SPARE_SECONDS)
    output = started.output()
    counts, failed = read_outcomes(output)
    entry |= counts
    entry["seconds"] = time.monotonic() - begun
    entry["failures"] = dict(list(failed.items())[:MOST_NAMES])
    if failed:
        names = ", ".join(list(failed)[:3])
        raise WrongResultError(f"{len(failed)} tests failed, among them {names}")
    if not finished:
        entry["failed_tests"] = None  # none of those that ran failed, but some did not run
        raise RuntimeError(f"the tests were ended after {entry['seconds']:.0f} s")
    if started.process.returncode != 0 or not counts["passed"]:
        raise RuntimeError(f"pytest ended with {started.process.returncode}: {last_lines(output)}")


def read_outcomes(output: str) -> tuple[dict[str, int], dict[str, str]]:
    """Return how many tests passed, failed and were skipped, and which failed for which reason.

    It reads the lines that ``pytest -v`` prints as it goes, with or without workers, so that a run
    that was ended counts as far as it came.
    """
    outcomes: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for line in output.splitlines():
        if found := _WORKER_LINE.match(line):
            outcomes[found[2]] = found[1]
        elif found := _REASON_LINE.match(line):
            reasons[found[1]] = found[2]
        elif found := _PLAIN_LINE.match(line):
            outcomes[found[1]] = found[2]
    failed = {
        plain(name): plain(reasons.get(name, "no reason was printed"))
        for name, outcome in outcomes.items()
        if outcome in ("FAILED", "ERROR")
    }
    kinds = list(outcomes.values())
    skipped = sum(kinds.count(kind) for kind in ("SKIPPED", "XFAIL"))
    passed = sum(kinds.count(kind) for kind in ("PASSED", "XPASS"))
    return {"passed": passed, "failed_tests": len(failed), "skipped_tests": skipped}, failed


def _memory_check(bench: Bench, entry: Entry, started: Started) -> None:
    finished = _finished(started, min(SANITIZER_SECONDS, bench.left - SPARE_SECONDS))
    output = started.output()
    found = re.search(r"ERROR SUMMARY: (\d+) error", output)
    if not finished:
        entry["absent"] = "compute-sanitizer did not finish in time"
        return
    entry["memory_errors"] = int(found[1]) if found else None
    if started.process.returncode == MEMORY_ERROR or (found and int(found[1])):
        kinds = re.findall(r"=========\s+((?:Invalid|Misaligned|Program hit|Race).*)", output)
        raise WrongResultError(f"compute-sanitizer: {plain('; '.join(kinds[:3])) or found}")
    if started.process.returncode != 0 or not found:
        entry["absent"] = f"compute-sanitizer does not work here: {last_lines(output)}"


def _compile(bench: Bench, entry: Entry, started: Started) -> None:
    """Wait for the compiling of the kernels that are timed later.

    A kernel that cannot be compiled fails again where it is measured, and is recorded there.
    """
    if not _finished(started, bench.left - SPARE_SECONDS / 2):
        entry["absent"] = "not all in time; the rest is compiled where it is measured"
    elif started.process.returncode != 0:
        entry["absent"] = f"failed: {last_lines(started.output())}"


def _grid(bench: Bench, entry: Entry, seconds: float) -> None:
    """Check backend ``lse``, with PyTorch's real kernel, over the cases of the tests.

    Away from a GPU the tests have only a stand-in for that kernel.
    """
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from op_cases import CASES
    from op_truth import plain_pytorch, truth, worst

    kind = bench.device.type
    narrow = (torch.bfloat16, torch.float16) if kind == "cuda" else ()
    cases = CASES[:4] if bench.sizes is QUICK else CASES
    right = 0
    wrong: dict[str, str] = {}
    for case in cases:
        if bench.left < LEAST_SECONDS:
            entry["skipped"] = f"out of time; {right} were right and {len(wrong)} wrong"
            return
        for dtype in (*narrow, torch.float32):
            name = f"{case}, {str(dtype).removeprefix('torch.')}"
            try:
                given, rule = case.tensors(dtype, kind), case.rule(dtype, kind)
                exact, theirs = truth(case, given, rule), plain_pytorch(case, given, rule)
                q, k, v = given
                found = span_attention(q, k, v, case.query(), backend="lse", **rule)
                rounding = max(torch.finfo(dtype).eps, checking.FLOAT32_FLOOR)
                checking.require(
                    {
                        "out": worst(found.out, exact.out),
                        "mass": worst(found.mass, exact.mass),
                        "lse": worst(found.lse, exact.lse),
                    },
                    {
                        "out": 2 * worst(theirs[0], exact.out) + rounding,
                        "mass": MASS_TOLERANCE,
                        "lse": LSE_TOLERANCE,
                    },
                )
                right += 1
            except Exception as error:  # the other cases go on
                wrong[name] = describe(error)
            if name in wrong:
                recover(bench.device)
    entry |= {"passed": right, "failed_tests": len(wrong)}
    entry["failures"] = dict(list(wrong.items())[:MOST_NAMES])
    if wrong:
        raise WrongResultError(
            f"{len(wrong)} cases are wrong, among them {', '.join([*wrong][:3])}"
        )
