"""Train a tiny model with ``SRATrainer`` in two processes that share it, and write the outcome.

The command is `python tests/support/parallel_training.py FOLDER`. The first process writes
`FOLDER/KIND.json` and `FOLDER/KIND.safetensors`. accelerate shards no model on a CPU by itself, so
it is told that these processes have a GPU each; all it computes is on the CPU.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from torch import distributed, multiprocessing
from transformers import AutoModelForCausalLM
from transformers.distributed.configuration_utils import DistributedConfig

import ddp_training
from model_families import FAMILIES
from parallel_models import whole
from sra_fast.training.sra.history import read_history

PROCESSES = 2
_FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


def tell_accelerate_of_gpus() -> None:
    own: Any = PartialState.__init__

    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    PartialState.__init__ = initialise  # type: ignore[method-assign]


def train(kind: str, folder: Path, model: Any, batch: int) -> None:
    trainer = ddp_training.one_step(folder / kind, batch=batch, collator="padded", model=model)
    weights = {name: whole(one).clone() for name, one in trainer.model.named_parameters()}
    if trainer.is_world_process_zero():
        outcome = {
            "log": trainer.state.log_history,
            "n": [line["n"] for line in read_history(folder / kind)],
            "class": type(trainer.model).__name__,
        }
        (folder / f"{kind}.json").write_text(json.dumps(outcome))
        save_file(weights, folder / f"{kind}.safetensors")


def work(rank: int, folder: Path) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(PROCESSES),
        MASTER_ADDR="localhost",
        MASTER_PORT="0",
    )
    warnings.simplefilter("ignore")
    store = f"file://{folder / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES)
    tell_accelerate_of_gpus()
    shared = AutoModelForCausalLM.from_pretrained(
        folder / "model", distributed_config=DistributedConfig(tp_size=PROCESSES)
    )
    train("tensor_parallel", folder, shared, batch=4)  # each process is given all of a batch
    os.environ.update(_FSDP2)
    train("sharded", folder, FAMILIES[0].build(), batch=2)
    distributed.barrier()
    distributed.destroy_process_group()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    FAMILIES[0].build().save_pretrained(folder / "model")
    # Forked, for what is imported here is imported once.
    multiprocessing.start_processes(work, (folder,), nprocs=PROCESSES, start_method="fork")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
