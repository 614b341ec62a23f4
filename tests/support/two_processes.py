"""Split layers or tokens over two processes in every way, and write what each door says of it.

The command is `python tests/support/two_processes.py FOLDER`. Each process writes
`FOLDER/RANK.json`: by the way of splitting and the door, the scores or the refusal.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.experimental import context_parallel
from transformers import AutoModelForCausalLM, Trainer
from transformers.distributed.configuration_utils import DistributedConfig

import sra_fast
from marked_batches import marked_batch
from marked_examples import arguments
from model_families import FAMILIES
from sra_fast.training.sra.callback import SRACallback
from sra_fast.training.sra.trainer import SRATrainer

BATCH = marked_batch((24,))
PROCESSES = 2


class Skipped(nn.Identity):
    """A layer that was pruned away."""

    def forward(self, hidden: Any, **kwargs: Any) -> Any:
        return hidden


# --- ways to split it, or not ---


def whole(folder: Path) -> Any:
    return FAMILIES[0].build()


def loaded_pipeline_parallel(folder: Path) -> Any:
    config = DistributedConfig(pp_size=PROCESSES)
    return AutoModelForCausalLM.from_pretrained(folder, distributed_config=config)


def stage_of_identities(folder: Path) -> Any:
    model = whole(folder)
    for at in range(3):
        if (at == 0) != (distributed.get_rank() == 0):
            model.model.layers[at] = Skipped()
    return model


def stage_without_its_ends(folder: Path) -> Any:
    """As the guide of torch.distributed.pipelining takes a stage out of a model."""
    model = whole(folder)
    if distributed.get_rank() == 0:
        model.model.layers = model.model.layers[:1]
        model.model.norm = model.lm_head = None
    else:
        model.model.layers = model.model.layers[1:]
        model.model.embed_tokens = None
    return model


def pruned(folder: Path) -> Any:
    model = whole(folder)
    model.model.layers[1] = Skipped()
    return model


WAYS: dict[str, Callable[[Path], Any]] = {
    made.__name__: made
    for made in (
        whole,
        loaded_pipeline_parallel,
        stage_of_identities,
        stage_without_its_ends,
        pruned,
    )
}


# --- doors ---


def score(model: Any, folder: Path) -> Any:
    return sra_fast.score(model, BATCH).sra.tolist()


def monitor(model: Any, folder: Path) -> Any:
    with warnings.catch_warnings(), sra_fast.monitor(model) as watched:
        model(**BATCH)
    return watched.results[0].sra.tolist()


def monitor_ddp(model: Any, folder: Path) -> Any:
    return monitor(nn.parallel.DistributedDataParallel(model), folder)


def callback(model: Any, folder: Path) -> Any:
    Trainer(model, arguments(folder), callbacks=[SRACallback()])
    return "taken"


def trainer(model: Any, folder: Path) -> Any:
    SRATrainer(model, arguments(folder), sra_weight=0.5)
    return "taken"


DOORS: dict[str, Callable[[Any, Path], Any]] = {
    door.__name__: door for door in (score, monitor, callback, trainer)
}


def said(door: Callable[..., Any], *given: Any) -> Any:
    try:
        return door(*given)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@contextmanager
def sequences_split() -> Iterator[None]:
    mesh = init_device_mesh("cpu", (PROCESSES,))
    buffers = [tensor.clone() for tensor in BATCH.values()]
    with context_parallel(mesh, buffers=buffers, buffer_seq_dims=[1] * len(buffers)):
        yield


def within_and_around(model: Any) -> Any:
    """Enter the parallelism after the monitor, as a trainer does."""
    with sra_fast.monitor(model), sequences_split():
        return said(lambda: model(**BATCH))


def work(rank: int, folder: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(PROCESSES))
    store = f"file://{folder / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES)
    warnings.simplefilter("ignore")
    found: dict[str, dict[str, Any]] = {}
    for way, make in WAYS.items():
        model = make(folder / "model")
        found[way] = {name: said(door, model, folder / way) for name, door in DOORS.items()}
        distributed.barrier()
    found["whole"]["monitor_ddp"] = said(monitor_ddp, whole(folder), folder)
    with sequences_split():
        found["context_parallel"] = {
            name: said(door, whole(folder), folder / "cp") for name, door in DOORS.items()
        }
    found["context_parallel"]["monitored_before"] = within_and_around(whole(folder))
    found["afterwards"] = {"score": said(score, whole(folder), folder)}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    whole(folder).save_pretrained(folder / "model")
    # Forked, for what is imported here is imported once.
    multiprocessing.start_processes(work, (folder,), nprocs=PROCESSES, start_method="fork")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
