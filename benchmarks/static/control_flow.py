"""Find the loops in a program that is given as a list of instructions.

A loop is what compilers call a natural loop: an edge goes back to a head that every way into the
loop passes, and the loop is what can reach that edge without passing the head. So code that stands
elsewhere and jumps back (slow paths, waits that are polled) counts for the loop it belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Instruction:
    """One instruction of a program.

    Attributes:
        name: the opcode with its modifiers, e.g. ``"HGMMA.64x64x16.F32.BF16"``.
        operands: the rest of its line.
        target: the index of the instruction that it may jump to, or None.
        goes_on: whether the next instruction may follow it.
    """

    name: str
    operands: str = ""
    target: int | None = None
    goes_on: bool = True


Program = Sequence[Instruction]


def successors(program: Program) -> list[list[int]]:
    """Return for each instruction the indices of those that may follow it."""
    following = []
    for at, instruction in enumerate(program):
        after = [at + 1] if instruction.goes_on and at + 1 < len(program) else []
        if instruction.target is not None and instruction.target not in after:
            after.append(instruction.target)
        following.append(after)
    return following


def loops(program: Program) -> list[frozenset[int]]:
    """Return the loops as sets of instructions, ordered by their first one; one loop per head."""
    following = successors(program)
    starts = _starts(program)
    block_of = {}
    for block, start in enumerate(starts):
        stop = starts[block + 1] if block + 1 < len(starts) else len(program)
        block_of.update(dict.fromkeys(range(start, stop), block))
    ends = [start - 1 for start in starts[1:]] + [len(program) - 1]
    after = [sorted({block_of[to] for to in following[end]}) for end in ends]
    dominators = _dominators(after)
    before: list[list[int]] = [[] for _ in starts]
    for block, to in ((block, to) for block, many in enumerate(after) for to in many):
        if dominators[block]:
            before[to].append(block)

    bodies: dict[int, set[int]] = {}
    for tail, heads in enumerate(after):
        for head in heads:
            if head in dominators[tail]:
                bodies.setdefault(head, {head}).update(_body(head, tail, before))
    found = [frozenset(at for at, of in block_of.items() if of in body) for body in bodies.values()]
    return sorted(found, key=min)


def _starts(program: Program) -> list[int]:
    """Return the indices at which a run of instructions without a jump in or out begins."""
    starts = {0} if program else set()
    for at, instruction in enumerate(program):
        if instruction.target is not None:
            starts.add(instruction.target)
        if (instruction.target is not None or not instruction.goes_on) and at + 1 < len(program):
            starts.add(at + 1)
    return sorted(starts)


def _dominators(after: list[list[int]]) -> list[set[int]]:
    """Return for each block those that every way to it from block 0 passes; empty: no way to it."""
    order, seen = [], set()
    stack = [(0, iter(after[0]))] if after else []
    seen.update([0] if after else [])
    while stack:
        block, rest = stack[-1]
        to = next((to for to in rest if to not in seen), None)
        if to is None:
            order.append(stack.pop()[0])
        else:
            seen.add(to)
            stack.append((to, iter(after[to])))
    order.reverse()
    before: dict[int, list[int]] = {block: [] for block in order}
    for block in order:
        for to in after[block]:
            before[to].append(block)

    everything = set(order)
    dominators = [set(everything) if block in everything else set() for block in range(len(after))]
    if order:
        dominators[0] = {0}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            new = set.intersection(*(dominators[of] for of in before[block])) | {block}
            changed |= new != dominators[block]
            dominators[block] = new
    return dominators


def _body(head: int, tail: int, before: list[list[int]]) -> set[int]:
    """Return the blocks from which ``tail`` can be reached without passing ``head``."""
    body, waiting = {head}, [tail]
    while waiting:
        block = waiting.pop()
        if block not in body:
            body.add(block)
            waiting.extend(before[block])
    return body
