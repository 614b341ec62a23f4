"""Hold the score to its floor, the plain forward pass: in time, and in memory of a first call.

The command is ``python -m benchmarks.cpu --floor``. Per length it times pairs of the forward pass
and ``score`` in turn, and gives the median of the pairs' ratios, by the clock and in processor
time: the latter hardly sees what else the machine does. Memory is that of the first call in a
process, with everything that ``score`` does once: its trial, its self-check, and code that is
loaded for them. Modules are imported before, as a user's script does. No figure is given unless the
answers agree with those of eager attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from benchmarks.cpu.compare import FLOOR, FRESH, Meter
from benchmarks.cpu.measure import OURS, Measured
from benchmarks.cpu.record import memory
from benchmarks.measuring import same_results
from benchmarks.measuring.cases import SMOLLM2, ModelCase

EAGER = "b"  # what the answers are checked by
MOST_TIME = {512: 1.05, 4096: 1.00}
"""For each length in tokens, the most that ``score`` is to take of the forward pass's time."""
MEMORY_TOKENS = 2048
MOST_MEMORY = 1.1
"""The most that a first call is to take of the memory of the forward pass's first call."""
PROCESSES = 3  # whose first calls' memory is measured, of each alternative


class WrongAnswerError(RuntimeError):
    """Raised when what was to be measured does not agree with eager attention."""


@dataclass(frozen=True)
class TimeToFloor:
    """The time of ``score`` divided by that of the forward pass, at one length.

    Attributes:
        case: the model and length that ran.
        pairs: how many pairs of calls there were.
        ratio: the median of their ratios, by the clock.
        middle: the ratios between which the middle half of the pairs lies.
        processor_ratio: the median of their ratios in processor time.
    """

    case: ModelCase
    pairs: int
    ratio: float
    middle: tuple[float, float]
    processor_ratio: float


@dataclass(frozen=True)
class FirstCallMemory:
    """The peak memory of first calls in fresh processes, above the loaded model.

    Attributes:
        case: the model and length that ran.
        score_bytes: the peak of ``score``, the median over the processes.
        floor_bytes: the same of the forward pass.
    """

    case: ModelCase
    score_bytes: int
    floor_bytes: int

    @property
    def ratio(self) -> float:
        """Return ``score``'s peak divided by the forward pass's."""
        return self.score_bytes / self.floor_bytes


def time_to_floor(case: ModelCase, pairs: int, meter: Meter = FRESH) -> TimeToFloor:
    """Time pairs of the forward pass and ``score`` in a process of their own.

    Raises:
        WrongAnswerError: an answer is not eager attention's.
    """
    timed = meter.pairs(case, FLOOR, pairs)
    _check(case, [meter.memory(case, EAGER), timed])
    ratios = [ours.seconds / floor.seconds for floor, ours in timed.pairs]
    quarters = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return TimeToFloor(
        case,
        len(ratios),
        median(ratios),
        (quarters[0], quarters[2]),
        median(ours.processor_seconds / floor.processor_seconds for floor, ours in timed.pairs),
    )


def first_call_memory(case: ModelCase, processes: int, meter: Meter = FRESH) -> FirstCallMemory:
    """Measure the first calls of the forward pass and of ``score``, each in fresh processes.

    Raises:
        WrongAnswerError: an answer is not eager attention's.
    """
    several = [meter.memory(case, key) for _ in range(processes) for key in (FLOOR, OURS)]
    _check(case, [meter.memory(case, EAGER), *several])
    peaks: Mapping[str, list[int]] = {
        key: [one.first_peak_bytes for one in several[at::2] if one.first_peak_bytes is not None]
        for at, key in enumerate((FLOOR, OURS))
    }
    return FirstCallMemory(case, int(median(peaks[OURS])), int(median(peaks[FLOOR])))


def report(pairs: int) -> str:
    """Measure times and memory, in about eight minutes on two cores; return both as text."""
    lines = []
    for tokens, most in MOST_TIME.items():
        found = time_to_floor(ModelCase(SMOLLM2, tokens), pairs)
        low, high = found.middle
        lines.append(
            f"{found.case}: score takes {found.ratio:.3f} of the forward pass's time, the median "
            f"of {found.pairs} pairs (the middle half: {low:.3f} to {high:.3f}), and "
            f"{found.processor_ratio:.3f} of its processor time; wanted: at most {most:.2f}"
        )
    held = first_call_memory(ModelCase(SMOLLM2, MEMORY_TOKENS), PROCESSES)
    lines.append(
        f"{held.case}: the first call of score takes {memory(held.score_bytes)} above the loaded "
        f"model and that of the forward pass {memory(held.floor_bytes)}, the medians of "
        f"{PROCESSES} processes each: {held.ratio:.3f} of it; wanted: at most {MOST_MEMORY:.2f}"
    )
    return "\n".join(lines)


def _check(case: ModelCase, several: Sequence[Measured]) -> None:
    """Compare all answers of the forward pass and of ``score`` with eager attention's."""
    answers = {
        key: [answer for measured in several for answer in measured.answers(key)]
        for key in (EAGER, FLOOR, OURS)
    }
    truth = same_results.agree_on([found[0] for found in answers.values()])
    for key, found in answers.items():
        verdict = same_results.check(found, truth, same_results.FLOAT32_TOLERANCES)
        if verdict is None or not verdict.right:
            raise WrongAnswerError(f"{case}: ({key}) is not what the others computed: {verdict}")
