"""Load a model's weights, and refuse a model of which some are missing or of another shape.

transformers fills such weights with random numbers and only logs it. Here they stop the load, with
their names; keys of the files that the model does not have are told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sra_fast.files.model_files import DamagedModelError, file_of, loading, uneven_parts
from sra_fast.tools.argument_error import ArgumentError

if TYPE_CHECKING:
    from torch import nn

_logger = logging.getLogger(__name__)

_SHOWN = 8  # the most names of weights in a message
_SEED = 0  # of the random numbers that stand in for missing weights


@dataclass(frozen=True)
class Mismatch:
    """A weight whose shape in the file is not the one that the model has.

    Attributes:
        name: the name of the weight.
        found: its shape in the file.
        wanted: its shape in the model.
    """

    name: str
    found: tuple[int, ...]
    wanted: tuple[int, ...]


class MissingWeightsError(ArgumentError):
    """Raised when the files of a model or an adapter do not hold all of its weights, and only them.

    Args:
        problem: what is wrong.
        way_out: what to do about it; the message is the two together.
        missing, mismatched, unexpected: the attributes of these names.
        allowable: whether the model could be loaded all the same, with ``allow_missing``.

    Attributes:
        problem: what is wrong, without the way out.
        missing: names of the weights that the files lack, sorted.
        mismatched: the weights that have another shape in the files, sorted by name.
        unexpected: names in an adapter's file that its base model has no place for, sorted; empty
            for a model, whose unexpected keys are told only.
    """

    def __init__(
        self,
        problem: str,
        way_out: str,
        missing: Iterable[str],
        mismatched: Iterable[Mismatch] = (),
        unexpected: Iterable[str] = (),
        *,
        allowable: bool = True,
    ) -> None:
        super().__init__(f"{problem}; {way_out}", *(("allow_missing",) if allowable else ()))
        self.problem = problem
        self.missing = tuple(missing)
        self.mismatched = tuple(mismatched)
        self.unexpected = tuple(unexpected)


def load_weights(
    auto_class: Any,
    place: str,
    what: str,
    *,
    allow_missing: bool,
    unneeded: Callable[[Any], Collection[str]] = lambda model: (),
    why_unneeded: str | None = None,
    reseeded: bool = True,
    **arguments: Any,
) -> Any:
    """Load a model by one of transformers' auto classes, with all of its weights.

    Args:
        auto_class: the class, such as ``AutoModelForCausalLM``.
        place: the folder or the name on the hub.
        what: what to call it in messages, such as ``"model 'tiny'"``.
        allow_missing: whether weights that are missing or of another shape are only told.
        unneeded: returns the names of the weights that may be missing.
        why_unneeded: what is told of these, such as ``"that no mass depends on"``; None if nothing.
        reseeded: whether the random numbers that stand in for weights are the same at every load;
            else they come from torch's generator as it is.
        arguments: further arguments of ``from_pretrained``.

    Raises:
        MissingWeightsError: weights are missing or of another shape.
        DamagedModelError: the model cannot be loaded at all.
    """
    try:
        with loading(what, place), seeded() if reseeded else nullcontext():
            model, report = auto_class.from_pretrained(
                place, output_loading_info=True, ignore_mismatched_sizes=True, **arguments
            )
    except DamagedModelError as error:
        absent = uneven_parts(Path(place))
        if not isinstance(error.__cause__, RuntimeError) or not absent:
            raise
        raise MissingWeightsError(
            _found(what, Path(place), absent, set()),
            "get the whole checkpoint",
            sorted(absent),
            allowable=False,
        ) from error
    spared = set(unneeded(model))
    mismatched = {Mismatch(n, tuple(a), tuple(b)) for n, a, b in report["mismatched_keys"]}
    lacking = {name for name in report["missing_keys"] if name not in spared}
    unlike = {one for one in mismatched if one.name not in spared}
    if unlike:
        lacking |= uneven_parts(Path(place))
    if lacking or unlike:
        found = _found(what, Path(place), lacking, unlike)
        if not allow_missing:
            raise MissingWeightsError(
                f"{found}; random numbers would stand in for them",
                "get the whole checkpoint, or allow missing weights",
                sorted(lacking),
                sorted(unlike, key=lambda one: one.name),
            )
        tell(f"{found}; random numbers stand in for them")
    told = sorted(spared & {*report["missing_keys"], *(one.name for one in mismatched)})
    if told and why_unneeded is not None:
        tell(f"{what}: its files lack {_count(told, 'weight')} {why_unneeded}: {listed(told)}")
    if report["unexpected_keys"]:
        extra = sorted(report["unexpected_keys"])
        tell(
            f"{what}: its files hold {_count(extra, 'tensor')} that {type(model).__name__} has no "
            f"place for, which {_are(extra)} not read: {listed(extra)}"
        )
    return model


def output_head(model: Any) -> set[str]:
    """Return the names of the weights of a language model's output head, on which no mass depends.

    Args:
        model: a model of transformers.
    """
    head = model.get_output_embeddings()
    if head is None or head is model.get_input_embeddings():
        return set()
    return weights_of(model, head)


def weights_of(model: nn.Module, part: nn.Module) -> set[str]:
    """Return the names that the weights of a module have in the model that it is a part of.

    Args:
        model: the model.
        part: the module.
    """
    places = [name for name, module in model.named_modules() if module is part]
    return {f"{place}.{name}" for place in places for name in part.state_dict()}


@contextmanager
def seeded() -> Iterator[None]:
    """Draw the same random numbers in every such block, and leave the generator as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SEED)
        yield


@cache
def tell(sentence: str) -> None:
    """Log a warning, unless this process has logged the same one before."""
    _logger.warning("%s", sentence)


def listed(names: Collection[str]) -> str:
    """Return the first names, sorted, and how many more there are."""
    shown = ", ".join(sorted(names)[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def describe(
    missing: Collection[str], mismatched: Collection[Mismatch], where: str, model: str
) -> list[str]:
    """Return a clause about missing weights and one about wrong shapes, where there are any.

    Args:
        missing: the names of the missing weights.
        mismatched: the weights of another shape.
        where: the file or folder that was read.
        model: what has the other shapes, such as ``"the configuration"``.
    """
    clauses = []
    if missing:
        clauses.append(f"{where} lacks {_count(missing, 'weight')}: {listed(missing)}")
    if mismatched:
        shapes = {
            f"{one.name} has {list(one.found)} where {model} has {list(one.wanted)}"
            for one in mismatched
        }
        clauses.append(
            f"{where} holds {_count(shapes, 'weight')} of another shape: {listed(shapes)}"
        )
    return clauses


def _found(what: str, folder: Path, missing: set[str], mismatched: set[Mismatch]) -> str:
    files = {file_of(folder, name) for name in (*missing, *(one.name for one in mismatched))}
    file = files.pop() if len(files) == 1 else None
    return f"{what}: {'; '.join(describe(missing, mismatched, str(file or folder), 'the model'))}"


def _count(names: Collection[Any], noun: str) -> str:
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"


def _are(names: Collection[Any]) -> str:
    return "is" if len(names) == 1 else "are"
