"""Run the kernels' tests on the GPU, a memory checker, and every provider over the op's cases.

The tests run in several processes, each with its share of them: most of their time is compiling.
Beside them, the kernels that are timed later are compiled into Triton's cache.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.failures import WrongResultError, last_lines, plain
from benchmarks.gpu.harness.sharing_tests import SHARE
from benchmarks.gpu.harness.sizes import QUICK
from benchmarks.gpu.sections import provider_cases

ROOT = Path(__file__).resolve().parents[3]
TESTS = (
    "kernels/test_triton_kernels.py",
    "kernels/test_triton_models.py",
    "kernels/test_row_gradient.py",
    "kernels/test_decode_splits.py",
    "kernels/test_mass_routes.py",
    "kernels/test_steering_kernel.py",
)
QUICK_TESTS = "scales"  # selects the tests by pytest's -k
MOST_PROCESSES = 12
NOTHING_SELECTED = 5  # pytest's exit status where no test was left to run
SPARE_SECONDS = 15.0  # kept for what comes after the tests
SANITIZERS = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")
SANITIZER_SECONDS = 120.0  # the checker runs beside the tests, so this costs no time
MEMORY_ERROR = 86  # the memory checker's exit status if it finds an error

_OUTCOME = "PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS"
_PLAIN_LINE = re.compile(rf"^(\S+::.*?)\s+({_OUTCOME})\b.*$")
_REASON_LINE = re.compile(r"^(?:FAILED|ERROR) (\S+?::.*?|\S+) - (.*)$")


@dataclass(frozen=True)
class Command:
    """A command line, and what it adds to the environment."""

    words: list[str]
    environment: dict[str, str]


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
    """Run the tests, the memory checker and the compiling; then every provider over the cases."""
    which = "some tests" if bench.sizes is QUICK else "tests"
    places = {which: _tests, "memory check of small cases": _memory_check, "compiling": _compile}
    wanted = [name for name in places if all(old.get("what") != name for old in bench.known)]
    with ExitStack() as stack:
        commands = dict(
            zip(places, (_pytests(bench), _checker(bench), _compiler(bench)), strict=True)
        )
        started = {
            name: [stack.enter_context(_started(one)) for one in commands[name]] for name in wanted
        }

        def measure(bench: Bench, entry: Entry, seconds: float) -> None:
            processes = started[entry["what"]]
            if not processes:
                entry["absent"] = "there is nothing to do it with here"
            else:
                places[entry["what"]](bench, entry, processes)

        bench.each([{"what": name} for name in places], measure)
    provider_cases.run(bench)


def _pytests(bench: Bench) -> list[Command]:
    tests = TESTS[:1] if bench.sizes is QUICK else TESTS
    files = [str(ROOT / "tests" / name) for name in tests]
    command = [sys.executable, "-m", "pytest", *files]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command += ["-v", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
    command += ["-p", "benchmarks.gpu.harness.sharing_tests"]
    processes = max(1, min((os.cpu_count() or 1) - 4, MOST_PROCESSES))
    if bench.sizes is QUICK:
        command, processes = [*command, "-k", QUICK_TESTS], 1
    return [Command(command, {SHARE: f"{n}/{processes}"}) for n in range(processes)]


def _checker(bench: Bench) -> list[Command]:
    found = next((path for path in map(shutil.which, SANITIZERS) if path), None)
    if found is None or bench.device.type != "cuda":
        return []
    options = ["--tool", "memcheck", "--error-exitcode", str(MEMORY_ERROR)]
    watched = [sys.executable, "-m", "benchmarks.gpu.sections.every_kernel"]
    # With the cache, blocks are so large that accesses past a tensor's end go unnoticed.
    return [Command([found, *options, *watched], {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})]


def _compiler(bench: Bench) -> list[Command]:
    if bench.device.type != "cuda" or bench.sizes is QUICK:
        return []
    return [Command([sys.executable, "-m", "benchmarks.gpu.sections.every_kernel", "--full"], {})]


@contextmanager
def _started(command: Command) -> Iterator[Started]:
    """Start a process inside ``with``, which is ended when ``with`` is left.

    What the process started itself may need a while more to end.
    """
    environment = {**os.environ, "COLUMNS": "400", **command.environment}
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            command.words, stdout=printed, stderr=subprocess.STDOUT, env=environment
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


def _tests(bench: Bench, entry: Entry, processes: Sequence[Started]) -> None:
    begun = time.monotonic()
    # A list, so that every process is waited for.
    finished = all([_finished(one, bench.left - SPARE_SECONDS) for one in processes])
    output = "\n".join(one.output() for one in processes)
    counts, failed = read_outcomes(output)
    entry |= counts
    entry["seconds"] = time.monotonic() - begun
    entry["failures"] = dict(list(failed.items())[: provider_cases.MOST_NAMES])
    if failed:
        names = ", ".join(list(failed)[:3])
        raise WrongResultError(f"{len(failed)} tests failed, among them {names}")
    if not finished:
        entry["failed_tests"] = None  # none of those that ran failed, but some did not run
        raise RuntimeError(f"the tests were ended after {entry['seconds']:.0f} s")
    bad = [one for one in processes if one.process.returncode not in (0, NOTHING_SELECTED)]
    if bad:
        status, printed = bad[0].process.returncode, last_lines(bad[0].output())
        raise RuntimeError(f"pytest ended with {status}: {printed}")
    if not counts["passed"]:
        raise RuntimeError(f"no test ran: {last_lines(output)}")


def read_outcomes(output: str) -> tuple[dict[str, int], dict[str, str]]:
    """Return how many tests passed, failed and were skipped, and which failed for which reason.

    It reads the lines that ``pytest -v`` prints as it goes, so that a run that was ended counts as
    far as it came.
    """
    outcomes: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for line in output.splitlines():
        if found := _REASON_LINE.match(line):
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


def _memory_check(bench: Bench, entry: Entry, processes: Sequence[Started]) -> None:
    (started,) = processes
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


def _compile(bench: Bench, entry: Entry, processes: Sequence[Started]) -> None:
    """Wait for the compiling of the kernels that are timed later.

    A kernel that cannot be compiled fails again where it is measured, and is recorded there.
    """
    (started,) = processes
    if not _finished(started, bench.left - SPARE_SECONDS / 2):
        entry["absent"] = "not all in time; the rest is compiled where it is measured"
    elif started.process.returncode != 0:
        entry["absent"] = f"failed: {last_lines(started.output())}"
