"""Measure every alternative of one case, check them against each other, and then keep times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from benchmarks.cpu.measure import OURS, Measured, TimedCall, memory_fresh, pairs_fresh
from benchmarks.measuring import same_results
from benchmarks.measuring.alternatives import ALTERNATIVES, AlternativeAnswer
from benchmarks.measuring.cases import ModelCase
from benchmarks.measuring.fresh_process import ProcessFailedError
from benchmarks.measuring.machine import available_bytes, bytes_needed
from benchmarks.measuring.same_results import FLOAT32_TOLERANCES, AnswerVerdict, Quantity, Truth

AlternativeStatus = Literal["ok", "WRONG", "unchecked", "does not fit", "failed"]

FLOOR = "c"
EAGER = ("b", "a")  # the first of these that ran gives bfloat16 its tolerance
LONG = 10.0  # seconds; a call that takes longer is not repeated for its memory


@dataclass(frozen=True)
class Meter:
    """The two functions that measure an alternative (:mod:`benchmarks.cpu.measure`)."""

    memory: Callable[[ModelCase, str], Measured]
    pairs: Callable[[ModelCase, str, int], Measured]


FRESH = Meter(memory_fresh, pairs_fresh)


@dataclass(frozen=True)
class ComparedAlternative:
    """The figures of one alternative at one case.

    Attributes:
        status: how the check went. Unless it is "ok", only ``note`` is given, and ``peak_bytes``
            as an estimate if the alternative does not fit into memory.
        seconds: the median time of its calls in the pairs.
        peak_bytes: the median peak of its memory above the loaded model.
        pairs: how many pairs of calls with ``score`` were timed.
        time_ratio: ``score``'s time divided by this one's, the median over the pairs.
        peak_ratio: ``score``'s peak memory divided by this one's.
        note: the errors that the check found, or why there are no figures.
    """

    status: AlternativeStatus
    seconds: float | None = None
    peak_bytes: int | None = None
    pairs: int = 0
    time_ratio: float | None = None
    peak_ratio: float | None = None
    note: str = ""


@dataclass(frozen=True)
class ComparedCase:
    """A case and the figures of each alternative that was measured at it."""

    case: ModelCase
    cells: Mapping[str, ComparedAlternative]


@dataclass
class Known:
    """The measures for bfloat16: float32's truth, and eager's own errors by length."""

    truths: dict[tuple[str, int], Truth] = field(default_factory=dict)
    eager_errors: dict[str, dict[int, dict[Quantity, float]]] = field(default_factory=dict)


def compare(
    case: ModelCase,
    keys: Sequence[str],
    pairs: Mapping[str, int],
    known: Known,
    repeats: int = 1,
    meter: Meter = FRESH,
) -> ComparedCase:
    """Measure and check one case with several alternatives.

    Args:
        case: what to run; a bfloat16 case comes after the float32 case of its model and length.
        keys: the letters of the alternatives.
        pairs: for each alternative but ``score``, how many pairs of calls with ``score`` to time.
        known: what earlier cases found; this case's findings are added to it.
        repeats: how many fresh processes measure the memory of ``score`` and of the floor, whose
            peaks are close. One does for the others, and for calls of over :data:`LONG` seconds.
        meter: the functions that measure one alternative of the case.
    """
    cells: dict[str, ComparedAlternative] = {}
    found: dict[str, list[Measured]] = {}
    for key in keys:
        alternative, available = ALTERNATIVES[key], available_bytes()
        needed = bytes_needed(case, alternative)
        if needed > available:
            note = f"needs {needed / 1e9:.0f} GB, {available / 1e9:.0f} GB are free"
            cells[key] = ComparedAlternative(
                "does not fit", peak_bytes=alternative.map_bytes(case), note=note
            )
            continue
        try:
            found[key] = _measure(case, key, pairs.get(key, 0), repeats, meter)
        except ProcessFailedError as error:
            cells[key] = ComparedAlternative("failed", note=str(error).strip().splitlines()[-1])
    answers = {key: _answers(found, key) for key in found}
    verdicts = _verdicts(case, answers, known)
    for key in found:
        cells[key] = _cell(key, found, verdicts)
    return ComparedCase(case, {key: cells[key] for key in keys})


def _measure(case: ModelCase, key: str, pairs: int, repeats: int, meter: Meter) -> list[Measured]:
    done = [meter.memory(case, key)]
    while key in (FLOOR, OURS) and len(done) < repeats and done[0].runs[0].seconds < LONG:
        done.append(meter.memory(case, key))
    if pairs and not done[0].pairs:
        done.append(meter.pairs(case, key, pairs))
    return done


def _answers(found: Mapping[str, Sequence[Measured]], key: str) -> list[AlternativeAnswer]:
    """Return an alternative's answers from all processes, those of other alternatives included."""
    processes = [measured for several in found.values() for measured in several]
    return [answer for measured in processes for answer in measured.answers(key)]


def _verdicts(
    case: ModelCase, answers: Mapping[str, Sequence[AlternativeAnswer]], known: Known
) -> dict[str, AnswerVerdict | None]:
    where = (case.shape.name, case.tokens)
    tolerances: Mapping[Quantity, float]
    if case.dtype == "float32":
        known.truths[where] = same_results.agree_on([several[0] for several in answers.values()])
        tolerances = FLOAT32_TOLERANCES
    else:
        errors = known.eager_errors.setdefault(case.shape.name, {})
        eager = next((key for key in EAGER if key in answers), None)
        if eager is not None and where in known.truths:
            errors[case.tokens] = same_results.worst_errors(answers[eager], known.truths[where])
        nearest = max((tokens for tokens in errors if tokens <= case.tokens), default=None)
        tolerances = {} if nearest is None else same_results.bfloat16_tolerances(errors[nearest])
    truth = known.truths.get(where, {})
    return {key: same_results.check(several, truth, tolerances) for key, several in answers.items()}


def _cell(
    key: str, found: Mapping[str, Sequence[Measured]], verdicts: Mapping[str, AnswerVerdict | None]
) -> ComparedAlternative:
    verdict = verdicts[key]
    if verdict is None:
        return ComparedAlternative(
            "unchecked", note="no other alternative ran that it could be checked against"
        )
    if not verdict.right:
        return ComparedAlternative("WRONG", note=str(verdict))
    peak = _peak(found[key])
    if key == OURS:
        # Its time comes from the pairs with the floor, or else with any other alternative.
        other = next((k for k in (FLOOR, *found) if k in found and k != OURS), None)
        times = [ours.seconds for _, ours in _pairs(found[other])] if other else []
        return ComparedAlternative(
            "ok", _time(times, found[key]), peak, len(times), note=str(verdict)
        )
    pairs = _pairs(found[key])
    seconds = _time([run.seconds for run, _ in pairs], found[key])
    ours = verdicts.get(OURS)
    if ours is None or not ours.right or not pairs:
        return ComparedAlternative("ok", seconds, peak, len(pairs), note=str(verdict))
    time_ratio = median(ours.seconds / run.seconds for run, ours in pairs)
    peak_ratio = _peak(found[OURS]) / peak if peak else None
    return ComparedAlternative(
        "ok", seconds, peak, len(pairs), time_ratio, peak_ratio, str(verdict)
    )


def _pairs(several: Sequence[Measured]) -> list[tuple[TimedCall, TimedCall]]:
    return [pair for measured in several for pair in measured.pairs]


def _time(paired: Sequence[float], several: Sequence[Measured]) -> float:
    """Return the median time in the pairs, or the first call's without pairs, in seconds."""
    return median(paired or [several[0].runs[0].seconds])


def _peak(several: Sequence[Measured]) -> int:
    return int(median(m.peak_bytes for m in several if m.peak_bytes is not None))
