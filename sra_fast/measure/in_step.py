"""Let the processes that hold one model together run it in step, and tell each other of errors.

Each layer of a split or sharded model waits for the other processes. So before anything runs, every
process tells the others whether it can, how many forward passes it will make, and of what; a
process that fails tells them instead of leaving them to wait.

Processes that share the heads of a layer run one batch. Processes that share parameters
(``fully_shard``) run batches of their own: who has fewer passes makes passes of one token more,
whose masses are dropped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from sra_fast.measure.served import ServedModel
from sra_fast.measure.sharded_parameters import gathered, sharded_modules, sharding_device

_MOST_BYTES = 2048  # of what a process tells
_MOST_LETTERS = 250  # of the words in it, each six bytes at most

_Prepared = TypeVar("_Prepared")


class PeerError(RuntimeError):
    """Raised where another process that holds a part of the model fails, or runs something else."""


@dataclass(frozen=True)
class Intent:
    """A description of the passes that a process is about to run.

    Attributes:
        passes: the number of its forward passes; 0 of an empty batch.
        way: how they run, in words: the same in all processes that have any.
        content: a digest of its batch.
        settings: what is asked of the batch, in words.
    """

    passes: int
    way: str
    content: str
    settings: str


def runs_together(served: ServedModel) -> AbstractContextManager[None]:
    """Return a context in which the decoder of a sharded model can be called."""
    if not sharded_modules(served.top):
        return nullcontext()
    return gathered(served.top, served.decoder)


def agreed(
    served: ServedModel,
    prepare: Callable[[], _Prepared],
    intent: Callable[[_Prepared], Intent],
) -> tuple[_Prepared, int]:
    """Prepare a run, and return what that gave and the most passes that any process makes.

    Args:
        served: the model.
        prepare: what each process does by itself, and may fail at.
        intent: tells of what was prepared what will run.

    Raises:
        PeerError: another process failed, or is about to run something else.
    """
    if served.heads is None and served.shards is None:
        return prepare(), 0
    try:
        prepared = prepare()
    except Exception as error:
        _tell(served, _failed(error))
        raise
    own = intent(prepared)
    settings = hashlib.blake2b(own.settings.encode(), digest_size=16).hexdigest()
    way = own.way[:_MOST_LETTERS]
    told = _tell(served, {**vars(own), "settings": settings, "way": way, "error": None})
    if served.heads is not None:
        _check_same(told[0])
    if served.shards is None:
        return prepared, own.passes
    return prepared, max(1, _check_ways(told[-1]))  # a made-up pass, if no process has any


def finished(served: ServedModel, error: Exception | None) -> None:
    """Tell the processes that share parameters how the own passes ended, and hear of theirs.

    Raises:
        Exception: ``error``, if there is one.
        PeerError: another process failed.
    """
    _tell(served, {"error": None} if error is None else _failed(error), raises=error is None)
    if error is not None:
        raise error


def any_process(served: ServedModel, flag: bool) -> bool:
    """Return whether any process that runs the model says so."""
    for group in _groups(served):
        every = torch.tensor([int(flag)], device=_device(served))
        distributed.all_reduce(every, op=distributed.ReduceOp.MAX, group=group)
        flag = bool(every)
    return flag


def content_digest(batch: Mapping[str, Any]) -> str:
    """Return a digest of all tensors of a batch, also of those in its mappings."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(batch):
        value = batch[name]
        if isinstance(value, Mapping):
            digest.update(f"{name}: {content_digest(value)}".encode())
        elif isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            plain = value.detach().cpu().contiguous()
            digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _failed(error: Exception) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}: {error}"[:_MOST_LETTERS]}


def _groups(served: ServedModel) -> list[Any]:
    """Return the groups that run the model: those who share heads, then those who share weights."""
    shared = None if served.heads is None else served.heads.group
    return [group for group in (shared, served.shards) if group is not None]


def _device(served: ServedModel) -> torch.device:
    return sharding_device(served.top) if served.heads is None else served.heads.device


def _tell(
    served: ServedModel, own: dict[str, Any], *, raises: bool = True
) -> list[dict[int, dict[str, Any]]]:
    """Tell the processes of each group, and return what those of each tell, by their rank.

    Raises:
        PeerError: one of them failed, and ``raises``.
    """
    everything, failure = [], None
    for group in _groups(served):
        text = json.dumps(own if failure is None else {"error": failure}).encode()
        sent = torch.zeros(_MOST_BYTES, dtype=torch.uint8)
        sent[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        sent = sent.to(_device(served))
        each = [torch.empty_like(sent) for _ in range(group.size())]
        distributed.all_gather(each, sent, group=group)
        ranks = distributed.get_process_group_ranks(group)
        told = {
            rank: json.loads(bytes(one.cpu().tolist()).rstrip(b"\0"))
            for rank, one in zip(ranks, each, strict=True)
        }
        everything.append(told)
        for rank, one in told.items():
            if one["error"] is not None and failure is None:
                failure = one["error"]
                where = rank
    if failure is not None and raises and own["error"] is None:
        raise PeerError(
            f"process {where} failed, and the model runs in all processes or in none: {failure}"
        )
    return everything


def _check_same(told: Mapping[int, Mapping[str, Any]]) -> None:
    """Refuse different batches or settings in processes that share the heads of one model."""
    first, *others = told
    for other in others:
        for what, named, way in (
            ("settings", "settings", "ask the same of"),
            ("content", "batches", "give the same batch to"),
        ):
            if told[other][what] != told[first][what]:
                raise PeerError(
                    f"the processes {first} and {other} hold parts of one tensor-parallel model "
                    f"and were given different {named}; {way} every process"
                )


def _check_ways(told: Mapping[int, Mapping[str, Any]]) -> int:
    """Return the most passes of any process; refuse runs that cannot go in step."""
    ways = {rank: one["way"] for rank, one in told.items() if one["passes"]}
    idle = [rank for rank, one in told.items() if not one["passes"]]
    if len(set(ways.values())) > 1:
        (first, way), (other, differs) = next(
            (one, two) for one in ways.items() for two in ways.items() if one[1] != two[1]
        )
        raise PeerError(
            f"the model is sharded over processes, and process {first} runs {way} where process "
            f"{other} runs {differs}; give all of them batches with the same keys"
        )
    if idle and any(way != LAID_OUT for way in ways.values()):
        rank, way = next(iter(ways.items()))
        raise PeerError(
            f"the model is sharded over processes, and process {idle[0]} has an empty batch while "
            f"process {rank} runs {way}; give every process a batch, or token ids alone"
        )
    return max(int(one["passes"]) for one in told.values())


LAID_OUT = "its sequences laid out anew"
"""The way of passes that any process can join with one token."""
