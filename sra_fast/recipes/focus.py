"""Tell prompts with an injected instruction by where the last prompt token looks.

Attention Tracker (arXiv 2411.00348): an injected instruction draws some heads' attention away from
the instruction. With the mass of the last prompt token's row on two spans, per layer l and head h,

    focus_lh  = mass_lh(instruction) / (mass_lh(instruction) + mass_lh(data))
    important = { (l, h) : (μ_normal − k·σ_normal) − (μ_attacked + k·σ_attacked) > 0 },  k = 4
    focus     = mean of focus_lh over the important heads

The means μ and deviations σ are over prompts that the heads are found on, with and without an
attack. A prompt whose focus is below a threshold is taken for an attacked one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sra_fast.scoring import score

INSTRUCTION, DATA = "instruction", "data"
DEVIATIONS = 4.0  # the paper's k
THRESHOLD = 0.5


def head_focus(
    model: nn.Module, batch: Mapping[str, Any], instruction: str = INSTRUCTION, data: str = DATA
) -> Tensor:
    """Return the focus of every head on the instruction, at the last token of each prompt.

    Args:
        model: a model that :func:`sra_fast.score` takes.
        batch: a batch with both spans in ``span_masks``, as :func:`sra_fast.mark` makes it; prompts
            need no reply (``generation_prompt=True``).
        instruction: name of the span that holds the instruction.
        data: name of the span that holds the data, in which an attack may stand.

    Returns:
        float32 ``[n, L, H]``, in [0, 1]; NaN where a head pays neither span any attention.

    Raises:
        KeyError: a span is missing.
        ValueError: as :func:`sra_fast.score`.
    """
    result = score(model, batch, rows="last_prompt", definition="mass")
    for name in (instruction, data):
        if name not in result.spans:
            raise KeyError(f"no span {name!r}; there are {', '.join(result.spans)}")
    wanted, other = (result.mass[..., result.names.index(name)] for name in (instruction, data))
    return wanted / (wanted + other)


def find_heads(normal: Tensor, attacked: Tensor, deviations: float = DEVIATIONS) -> Tensor:
    """Return which heads tell attacked prompts from normal ones, bool ``[L, H]``.

    Args:
        normal: ``[n, L, H]``, what :func:`head_focus` returns of normal prompts, at least two.
        attacked: ``[m, L, H]``, what it returns of attacked ones, at least two.
        deviations: k, how many standard deviations must lie between the two.

    Raises:
        TypeError: something else than tensors, such as the batches themselves.
        ValueError: too few prompts, shapes that do not agree, or no such head.
    """
    for name, given in (("normal", normal), ("attacked", attacked)):
        if not isinstance(given, Tensor):
            raise TypeError(
                f"{name}: expected what head_focus(model, batch) returns, [n, L, H], got "
                f"{type(given).__name__}"
            )
    if normal.ndim != 3 or attacked.shape[1:] != normal.shape[1:]:
        raise ValueError(
            f"expected normal [n, L, H] and attacked [m, L, H], got {list(normal.shape)} and "
            f"{list(attacked.shape)}"
        )
    if min(len(normal), len(attacked)) < 2:
        raise ValueError("heads are found on at least two normal and two attacked prompts")
    normal, attacked = normal.double(), attacked.double()
    least = normal.mean(dim=0) - deviations * normal.std(dim=0)
    most = attacked.mean(dim=0) + deviations * attacked.std(dim=0)
    found = least > most
    if not bool(found.any()):
        raise ValueError(
            f"no head tells the prompts apart by {deviations} standard deviations; take fewer"
        )
    return found


@dataclass(frozen=True)
class FocusDetector:
    """A detector of injected instructions.

    Attributes:
        heads: bool ``[L, H]``, the heads that are looked at.
        threshold: prompts whose focus is below this are taken for attacked ones. The default is the
            paper's; small models stay below it, so find one on prompts of your own.
    """

    heads: Tensor
    threshold: float = THRESHOLD

    def focus(self, shares: Tensor) -> Tensor:
        """Return the focus of each prompt, float32 ``[n]``, from ``[n, L, H]`` of the heads.

        Raises:
            ValueError: another number of heads, none that is chosen, or one without a focus.
        """
        if shares.ndim != 3 or shares.shape[1:] != self.heads.shape:
            raise ValueError(
                f"expected the focus of heads [n, {', '.join(map(str, self.heads.shape))}], got "
                f"{list(shares.shape)}"
            )
        if not bool(self.heads.any()):
            raise ValueError("heads: none is chosen; find some on prompts of your own")
        found = shares[:, self.heads].double().mean(dim=1).float()
        if not bool(found.isfinite().all()):
            prompt = int((~found.isfinite()).nonzero()[0])
            raise ValueError(
                f"prompt {prompt}: a chosen head pays neither span any attention (a sliding window "
                "that reaches neither), so that its focus is undefined; choose other heads"
            )
        return found

    def is_attacked(self, shares: Tensor) -> Tensor:
        """Return which prompts are taken for attacked ones, bool ``[n]``."""
        return self.focus(shares) < self.threshold
