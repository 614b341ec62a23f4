"""Share tiny models between two processes in every way, and compare what is measured with one's.

The command is `python tests/support/parallel_models.py FOLDER [FAMILY …]`. Each process writes
`FOLDER/RANK.json`: by the kind of parallelism (or the family that is tensor-parallel) and the door,
the largest relative difference from the same model in one process, or what was raised. A door that
gives something else than numbers says so.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers import AutoModelForCausalLM
from transformers.distributed.configuration_utils import DistributedConfig

import sra_fast
from marked_batches import marked_batch
from model_families import FAMILIES, Family
from sra_fast.measure import self_check
from sra_fast.measure.batch_keys import IGNORED_LABEL
from sra_fast.measure.in_step import content_digest
from sra_fast.measure.served import serve, switched
from sra_fast.measure.watching import unwrapped, watching
from sra_fast.training.sra.regulariser import SRARegulariser

PROCESSES = 2
LLAMA = FAMILIES[0]
BY_NAME = {family.name: family for family in FAMILIES}
KINDS_OF_PROFILES = ("heads", "layers", "mean")
# gpt-oss comes without a plan for its attention.
_GPT_OSS = {
    **{f"model.layers.*.self_attn.{name}_proj": "colwise" for name in "qkv"},
    "model.layers.*.self_attn.o_proj": "rowwise",
    "model.layers.*.self_attn.sinks": "colwise",
    "model.layers.*.self_attn": "local_params",
}


def rank() -> int:
    return distributed.get_rank()


# --- ways to share a model ---


def loaded(folder: Path, family: Family, model: Any = None, **config: Any) -> Any:
    """Load a family's model with transformers' own tensor parallelism."""
    path, plain = folder / family.name, model or family.build()
    if rank() == 0:
        plain.save_pretrained(path)
    distributed.barrier()
    if family.name == "gpt_oss":
        config["tp_plan"] = _GPT_OSS
    shared = AutoModelForCausalLM.from_pretrained(
        path,
        attn_implementation=plain.config._attn_implementation,
        distributed_config=DistributedConfig(tp_size=PROCESSES, **config),
    ).eval()
    distributed.barrier()
    return shared


def tensor_parallel(folder: Path) -> Any:
    return loaded(folder, LLAMA)


def tensor_and_expert_parallel(folder: Path) -> Any:
    return loaded(folder, BY_NAME["qwen3_moe"], ep_size=PROCESSES)


def parallelized(model: Any, mesh: Any, names: str = "qkv") -> Any:
    plan: Any = {f"self_attn.{name}_proj": ColwiseParallel() for name in names}
    plan["self_attn.o_proj"] = RowwiseParallel()
    for layer in model.model.layers:
        parallelize_module(layer, mesh, plan)
    return model


def tensor_parallel_and_sharded(folder: Path) -> Any:
    mesh = init_device_mesh("cpu", (1, PROCESSES), mesh_dim_names=("data", "heads"))
    model = parallelized(LLAMA.build(), mesh["heads"])
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh["data"])
    return model


def sharded_layers(folder: Path) -> Any:
    model: Any = LLAMA.build()
    for layer in model.model.layers:
        fully_shard(layer)
    return model


def sharded_on_top(folder: Path) -> Any:
    return fully_shard(LLAMA.build())


def sharded_layers_and_top(folder: Path) -> Any:
    return fully_shard(sharded_layers(folder))


def fsdp1(folder: Path) -> Any:
    return FullyShardedDataParallel(
        LLAMA.build(), device_id=torch.device("cpu"), use_orig_params=True
    )


def ddp(folder: Path) -> Any:
    return nn.parallel.DistributedDataParallel(LLAMA.build())


OWN_BATCHES = {
    "ddp": ddp,
    "fsdp1": fsdp1,
    "sharded_layers": sharded_layers,
    "sharded_on_top": sharded_on_top,
    "sharded_layers_and_top": sharded_layers_and_top,
}
"""The ways in which each process has a batch of its own."""


# --- doors ---


def apart(ours: Any, wanted: Any) -> float:
    """Return the largest difference, as a part of the largest number; infinite for other shapes."""
    if ours.shape != wanted.shape or not torch.equal(ours.isnan(), wanted.isnan()):
        return float("inf")
    if not wanted.numel():
        return 0.0
    largest = float(wanted.nan_to_num().abs().max())
    return float((ours - wanted).nan_to_num().abs().max()) / max(largest, 1e-30)


def of_results(ours: sra_fast.SRAResult, wanted: sra_fast.SRAResult) -> float:
    names = ("mass", "by_head", "row_masses", "profiles")
    pairs = [(getattr(ours, name), getattr(wanted, name)) for name in names]
    pairs += [(ours.scores[name], each) for name, each in wanted.scores.items()]
    return max(apart(one, other) for one, other in pairs if other is not None)


def score(shared: Any, plain: Any, batch: Any) -> float:
    asked: dict[str, Any] = {"keep_rows": True, "forward_tokens": 1}
    return max(
        of_results(
            sra_fast.score(shared, batch, profile=kind, **asked),
            sra_fast.score(plain, batch, profile=kind, **asked),
        )
        for kind in (*KINDS_OF_PROFILES, None)
    )


def fingerprint(shared: Any, plain: Any, batch: Any) -> str:
    """Return a digest of a result, which is the same where every bit of it is."""
    result = sra_fast.score(shared, batch, profile="mean", keep_rows=True)
    named = {name: getattr(result, name) for name in ("mass", "row_masses", "profiles", "by_head")}
    return content_digest({**named, **result.scores})


def checked(shared: Any, plain: Any, batch: Any) -> str:
    return sra_fast.score(shared, batch).checked


def monitor(shared: Any, plain: Any, batch: Any) -> float:
    found = []
    for model in (shared, plain):
        with torch.no_grad(), sra_fast.monitor(model, keep_rows=True, profile="heads") as watched:
            model(**batch)
        found.append(watched.results[0])
    return of_results(*found)


def steer(shared: Any, plain: Any, batch: Any) -> float:
    layers = serve(unwrapped(plain)).attention_layers
    some = {layers[0]: [1], layers[-1]: [2, 3]}
    ways: Any = ({"bias": 2.0, "heads": [0, 3]}, {"share": 0.5, "heads": some})
    real, found = batch["attention_mask"].bool(), []
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for model in (shared, plain):
        for way in ways:
            with torch.no_grad(), sra_fast.steer(model, batch, **way):
                found.append(model(**given).logits[real])
    return max(apart(found[0], found[2]), apart(found[1], found[3]))


def generate(shared: Any, plain: Any, batch: Any) -> float:
    prompts = {name: value[:1] for name, value in batch.items() if name != "response_mask"}
    asked: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    ours, wanted = (
        sra_fast.generate(model, prompts, profile="heads", keep_rows=True, **asked)
        for model in (shared, plain)
    )
    if not torch.equal(ours.sequences, wanted.sequences):
        return float("inf")
    steps = [apart(one, two) for one, two in zip(ours.masses, wanted.masses, strict=True)]
    return max(of_results(ours.result, wanted.result), *steps)


def train(shared: Any, plain: Any, batch: Any, batches: Any = None) -> float:
    """Take one step on the loss with its penalty, and compare the weights after it.

    With the batches of all processes given, the step of one process is on the mean of their losses.
    """
    _step(shared, [batch])
    _step(plain, [batch] if batches is None else batches)
    ours = _weights(shared)
    return max(apart(ours[name], weight) for name, weight in _weights(plain).items())


def _step(model: Any, batches: Any) -> None:
    inner = unwrapped(model)
    inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    served, penalty = serve(inner), SRARegulariser(0.5, heads=[0, 3])
    for batch in batches:
        answers: list[Any] = []
        labels = batch["input_ids"].masked_fill(~batch["response_mask"].bool(), IGNORED_LABEL)
        with switched(served), watching(served, answers.append, mass_grad=True):
            loss = model(**batch, labels=labels).loss + penalty.total(answers[0])
            (loss / len(batches)).backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()
    inner.gradient_checkpointing_disable()


def _weights(model: Any) -> dict[str, Tensor]:
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model):
            return {name: one.detach().clone() for name, one in model.module.named_parameters()}
    named = dict(unwrapped(model).named_parameters())
    return {name: whole(one) for name, one in named.items()}


def whole(parameter: Any) -> Tensor:
    full: Tensor = getattr(parameter, "full_tensor", lambda: parameter)()
    return full.detach()


def raised(door: Callable[..., Any], *given: Any) -> Any:
    try:
        return door(*given)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def compared(doors: tuple[Any, ...], make: Any, family: Family, *given: Any) -> dict[str, Any]:
    shared: Any = raised(make)
    if isinstance(shared, str):
        return {"loaded": shared}
    found = {}
    for door in doors:
        found[door.__name__] = raised(door, shared, family.build(), *given)
        distributed.barrier()
    return found


# --- what goes wrong ---


def wrongly_split(folder: Path) -> dict[str, Any]:
    """Split models in ways that cannot be measured, and give processes what does not belong."""
    batch, found = marked_batch((24,)), {}

    def scored(model: Any, given: Any = batch, **asked: Any) -> Any:
        said = raised(lambda: sra_fast.score(model, given, **asked).sra.tolist())
        distributed.barrier()
        return said

    mesh = init_device_mesh("cpu", (PROCESSES,))
    found["queries_alone"] = scored(parallelized(LLAMA.build(), mesh, "q"))
    one_key_head: Any = LLAMA.build()
    config = one_key_head.config
    config.num_key_value_heads = 1
    few_keys = loaded(folder / "mqa", LLAMA, AutoModelForCausalLM.from_config(config))
    found["one_key_head"] = scored(few_keys)
    said_to_be_whole = parallelized(LLAMA.build(), mesh)
    said_to_be_whole.config.num_attention_heads //= PROCESSES
    found["local_number_of_heads"] = scored(said_to_be_whole)
    odd = parallelized(LLAMA.build(), mesh)
    odd.config.num_attention_heads = 6
    found["odd_number_of_heads"] = scored(odd)

    shared = tensor_parallel(folder)
    found["other_batches"] = scored(shared, marked_batch((24,), seed=rank()))
    found["other_lengths"] = scored(shared, marked_batch((24 + rank(),)))
    found["other_settings"] = scored(shared, definition=("paper", "mass")[rank()])
    bad = {**batch, "response_mask": batch["response_mask"] * (1 - rank())}
    found["bad_batch_in_one"] = scored(shared, bad)
    torch.manual_seed(rank())
    prompts = {name: value for name, value in batch.items() if name != "response_mask"}
    found["other_tokens_drawn"] = raised(
        lambda: sra_fast.generate(shared, prompts, max_new_tokens=8, do_sample=True, top_k=0)
    )
    distributed.barrier()
    found["afterwards"] = scored(shared)
    return found


def in_step(folder: Path) -> dict[str, Any]:
    """Give the processes of a sharded model unlike work, and let one of them fail."""
    found: dict[str, Any] = {}
    model, plain = sharded_layers_and_top(folder), LLAMA.build()
    own = marked_batch((24, 17, 30) if rank() == 0 else (13,))
    empty = {name: value[:0] for name, value in own.items()}

    def scored(given: Any, **asked: Any) -> Any:
        said = raised(lambda: sra_fast.score(model, given, forward_tokens=1, **asked))
        distributed.barrier()
        return said

    def count(result: Any) -> str:
        return f"{len(result)} responses" if isinstance(result, sra_fast.SRAResult) else result

    def is_like_one(result: Any, given: Any) -> Any:
        if not isinstance(result, sra_fast.SRAResult):
            return result
        wanted = sra_fast.score(plain, given, forward_tokens=1)
        return of_results(result, wanted)

    found["unequal_passes"] = is_like_one(scored(own), own)
    found["checked"] = getattr(scored(own), "checked", None)
    self_check._CHECKED.clear()
    asked_in_one = scored(own, check=rank() == 0)
    found["check_in_one"] = is_like_one(asked_in_one, own)
    one_idle = scored(own if rank() == 0 else empty, profile="mean", keep_rows=True)
    found["one_idle"] = is_like_one(one_idle, own) if rank() == 0 else count(one_idle)
    found["all_idle"] = count(scored(empty))
    found["resharded"] = is_sharded(model)
    with torch.no_grad():
        logits = model(own["input_ids"], attention_mask=own["attention_mask"]).logits
        wanted = plain(own["input_ids"], attention_mask=own["attention_mask"]).logits
    found["called_afterwards"] = apart(logits, wanted)

    model.reshard()  # torch leaves the top's own parameters whole after a call

    def breaks_off(*given: Any) -> None:
        raise RuntimeError("half-way")

    hook = model.model.layers[1].mlp.register_forward_hook(breaks_off)
    found["broken_off"] = str(scored(own))
    hook.remove()
    found["resharded_after_an_error"] = is_sharded(model)

    bad = {**own, "response_mask": own["response_mask"] * (1 - rank())}
    found["bad_batch_in_one"] = str(scored(bad))
    positions = torch.arange(own["input_ids"].shape[1]).expand_as(own["input_ids"])
    shifted = {**own, "position_ids": positions + 1}
    found["other_ways"] = str(scored(shifted if rank() == 0 else own))
    found["idle_beside_given"] = str(scored(shifted if rank() == 0 else empty))

    failing = {1}

    def fails_in_one(rows: Any) -> Any:
        if rank() in failing:
            raise ValueError("no score today")
        return rows.tokens.mean(dim=1)

    sra_fast.register_definition("fails_in_one", fails_in_one)
    found["own_definition_fails_in_one"] = str(scored(own))
    failing.clear()
    prompts = {name: value for name, value in own.items() if name != "response_mask"}
    found["generate"] = raised(lambda: sra_fast.generate(model, prompts, max_new_tokens=2))
    found["afterwards"] = is_like_one(scored(own), own)
    return found


def is_sharded(model: nn.Module) -> bool:
    """Return whether no parameter of the modules that were sharded is whole."""
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    return bool(sharded) and all(
        isinstance(one, DTensor) for module in sharded for one in module.parameters()
    )


def one_had_it_before(folder: Path) -> Any:
    """Score a model in one process before it is shared, so that this one knows its kind."""
    model: Any = LLAMA.build()
    if rank() == 0:
        sra_fast.score(model, marked_batch((24,)))
    for layer in model.model.layers:
        fully_shard(layer)
    return sra_fast.score(model, marked_batch((24,))).checked


def work(rank: int, folder: Path, families: list[str]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(PROCESSES))
    store = f"file://{folder / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES)
    warnings.simplefilter("ignore")
    both = [marked_batch((24, 17)), marked_batch((13,))]
    own, found = both[rank], {"one_had_it_before": one_had_it_before(folder)}
    self_check._CHECKED.clear()
    everything = (score, monitor, steer, generate, fingerprint, checked, train)
    for name in families:
        family = BY_NAME[name]

        def make(family: Family = family) -> Any:
            return loaded(folder, family)

        found[name] = compared(everything, make, family, both[0])
    moe = BY_NAME["qwen3_moe"]
    found["tensor_and_expert_parallel"] = compared(
        everything, lambda: tensor_and_expert_parallel(folder), moe, both[0]
    )
    for doors in ((score, monitor, steer, generate), (train,)):
        found.setdefault("tensor_parallel_and_sharded", {}).update(
            compared(doors, lambda: tensor_parallel_and_sharded(folder), LLAMA, both[0])
        )
    for way, make_own in OWN_BATCHES.items():

        def make_its_own(make_own: Any = make_own) -> Any:
            return make_own(folder)

        found[way] = compared((score, monitor, checked), make_its_own, LLAMA, own)
        if way != "sharded_layers":  # the rest of whose parameters no process would average
            found[way] |= compared((train,), make_its_own, LLAMA, own, both)
    found["wrongly_split"] = wrongly_split(folder)
    found["in_step"] = in_step(folder)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


def main(folder: Path, families: list[str]) -> None:
    torch.set_num_threads(1)
    # Forked, for what is imported here is imported once.
    multiprocessing.start_processes(work, (folder, families), nprocs=PROCESSES, start_method="fork")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
