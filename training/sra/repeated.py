"""Tell which items of an evaluation's last batch accelerate repeated to fill all processes."""

from __future__ import annotations

from dataclasses import dataclass

from sra_fast.tools.missing_extra import needed

with needed("train", "accelerate"):
    from accelerate import PartialState
    from accelerate.state import GradientState


@dataclass(frozen=True)
class LastBatch:
    """How many items of an evaluation's last batch count, as one of several processes sees it.

    Attributes:
        size: number of items of this process, as the loader counts them; 0 if it does not say.
        kept: how many of them, from the first on, belong to the data set and count; may be below 0
            or above ``size``.
    """

    size: int
    kept: int


def last_batch(sharing: int = 1) -> LastBatch | None:
    """Return the batch being evaluated if it is the last and may repeat items, else None.

    This follows ``Accelerator.gather_for_metrics``: if the batches of all processes are laid one
    after the other, the first ``remainder`` items are the data set's.

    Args:
        sharing: how many neighbouring processes are given each batch together (tensor parallelism).
    """
    state, processes = GradientState(), PartialState()
    count = processes.num_processes // sharing
    if count == 1 or not state.end_of_dataloader or state.remainder <= 0:
        return None
    size = getattr(state.active_dataloader, "total_batch_size", 0) // count
    return LastBatch(size, state.remainder - processes.process_index // sharing * size)
