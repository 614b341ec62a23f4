"""Read what compilers write: NVIDIA's machine code (SASS), its PTX, and AMD's assembly."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from benchmarks.static.control_flow import Instruction

# /*0a10*/   @!P0 BRA.U UP1, 0x4320 ;      /* 0xffffff… */
_SASS = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);")
_SASS_ENDS = ("EXIT", "RET", "BRX", "KILL")
# @%p19 bra $L__BB0_4;      $L__BB0_4:
_PTX = re.compile(r"^\s*(@!?%p\d+\s+)?([a-z][\w.:]*)\s*([^;]*);")
# s_cbranch_scc1 .LBB0_4      .LBB0_4:
_AMD = re.compile(r"^\s+([a-z]\w+)\s*([^;]*)")
_LABEL = re.compile(r"^\s*([$.\w]+):(?!:)")  # not fence.proxy.async.shared::cta

# An opcode, its operands, the label that it jumps to, and whether it goes on to the next line.
CodeLine = tuple[str, str, str | None, bool]
Labels = dict[str, list[int]]  # where a label stands, as the index of the instruction after it


def sass(text: str) -> list[Instruction]:
    """Return the instructions of ``cuobjdump -sass``; its labels are addresses."""
    lines: list[CodeLine] = []
    labels: Labels = {}
    for address, predicate, name, operands in _SASS.findall(text):
        labels[f"0x{int(address, 16):x}"] = [len(lines)]
        jump = None
        goes_on = bool(predicate) or not name.startswith(_SASS_ENDS)
        if name.split(".")[0] == "BRA":
            *conditions, jump = operands.replace(",", " ").split()
            goes_on = bool(predicate or conditions)
        lines.append((name, operands.strip(), jump, goes_on))
    return _linked(lines, labels)


def ptx(text: str) -> list[Instruction]:
    """Return the instructions of a kernel in PTX."""

    def read(line: str) -> CodeLine | None:
        found = _PTX.match(line)
        if found is None:
            return None
        predicate, name, operands = found.groups()
        jumps = name.split(".")[0] == "bra"
        goes_on = bool(predicate) or not (jumps or name in ("ret", "exit", "trap"))
        return name, operands, operands.strip() if jumps else None, goes_on

    return _labelled(text.splitlines(), read)


def amdgcn(text: str) -> list[Instruction]:
    """Return the instructions of a kernel in AMD's assembly."""

    def read(line: str) -> CodeLine | None:
        found = _AMD.match(line)
        if found is None:
            return None
        name, operands = found.groups()
        jumps = name == "s_branch" or name.startswith("s_cbranch")
        goes_on = name not in ("s_branch", "s_endpgm", "s_setpc_b64")
        return name, operands.strip(), operands.strip() if jumps else None, goes_on

    return _labelled(text.splitlines(), read)


def _labelled(text: Iterable[str], read: Callable[[str], CodeLine | None]) -> list[Instruction]:
    """Return the instructions of lines among which labels stand, each before what it names."""
    lines: list[CodeLine] = []
    labels: Labels = {}
    for line in text:
        label = _LABEL.match(line)
        if label is not None:
            labels.setdefault(label[1], []).append(len(lines))
            continue
        made = read(line)
        if made is not None:
            lines.append(made)
    return _linked(lines, labels)


def _linked(lines: list[CodeLine], labels: Labels) -> list[Instruction]:
    """Return instructions with the index of what they jump to; an unknown label is an error.

    In PTX a label within braces is local, and short pieces of assembly are written with the same
    labels again and again: the nearest one is meant.
    """

    def nearest(at: int, label: str) -> int:
        return min(labels[label], key=lambda to: abs(to - at))

    return [
        Instruction(name, operands, None if jump is None else nearest(at, jump), goes_on)
        for at, (name, operands, jump, goes_on) in enumerate(lines)
    ]
