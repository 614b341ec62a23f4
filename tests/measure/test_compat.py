"""Private names of other libraries: met in one module, and there in the installed versions."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, SequentialHook, add_hook_to_module
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.experimental import context_parallel
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from model_families import FAMILIES, NOT_SERVED
from sra_fast.measure import compat
from sra_fast.measure.served import serve

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = ("torch", "transformers", "accelerate", "peft")
EXEMPT = {
    "sra_fast/measure/compat.py": "the module for private names",
    "kernels/span_attention/flash_cpu.py": "a provider: torch's CPU flash attention and its lse",
    "kernels/span_attention/providers/cudnn.py": "a provider: cuDNN's attention and its lse",
    "kernels/span_attention/providers/flex.py": "a provider: whether PyTorch can compile it",
    "sra_fast/tools/busy_threads.py": "the frames of all threads, by a documented name of CPython",
    "kernels/span_attention/torch_state.py": "whether tensors are written into or followed",
    "kernels/span_attention/triton_kernels/kernel_calls.py": "whether a mode watches operators",
}
"""Files that may touch private names of other libraries, and why."""

LLAMA = FAMILIES[0]


# --- where private names are touched ---


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_")


def scanned() -> dict[str, ast.Module]:
    """Every file of the library and the benchmarks, each once, by its place in the checkout."""
    links = ("sra_fast/kernels/", "sra_fast/training/")
    places = [
        (file.relative_to(ROOT).as_posix(), file)
        for folder in ("sra_fast", "kernels", "training", "benchmarks")
        for file in sorted((ROOT / folder).rglob("*.py"))
    ]
    return {
        place: ast.parse(file.read_text(encoding="utf-8"))
        for place, file in places
        if not place.startswith(links)
    }


def is_own(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def defined(tree: ast.AST) -> set[str]:
    """The private names that a piece of code gives a meaning to."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= {node.attr} if is_own(node.value) else set()
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "object.__setattr__":
            found.add(str(ast.literal_eval(node.args[1])))
    return {name for name in found if is_private(name)}


def foreign_names(tree: ast.Module, own: set[str]) -> Iterator[str]:
    """Private names that a file takes from an object or module that is not the project's.

    Args:
        tree: the file.
        own: private names that the project defines anywhere, for methods of a parent class.
    """
    here = defined(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if node.attr not in (own if is_own(node.value) else here):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("hasattr", "delattr"):
            if isinstance(node.args[1], ast.Constant) and is_private(str(node.args[1].value)):
                yield ast.unparse(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None) or ""
            for alias in node.names if not getattr(node, "level", 0) else ():
                parts = [*module.split("."), *alias.name.split(".")]
                if set(FOREIGN) & set(parts[:2]) and any(map(is_private, parts)):
                    yield ast.unparse(node)


def foreign_bases(tree: ast.Module, name: str) -> list[type]:
    """The classes of other libraries that a class of a file is made from directly."""
    imported = {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FOREIGN
        for alias in node.names
    }
    imported |= {
        alias.name: (alias.name, "")
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name in FOREIGN
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for base in node.bases:
                first, *rest = ast.unparse(base).split("[")[0].split(".")
                if first in imported:
                    module, attribute = imported[first]
                    start = importlib.import_module(module)
                    names = [attribute, *rest] if attribute else rest
                    found.append(reduce(getattr, names, start))
    return [base for base in found if isinstance(base, type)]


def overridden(trees: Mapping[str, ast.Module]) -> Iterator[str]:
    """Private names of a class that a class of another library, which it is made from, has too."""
    classes = {
        node.name: (place, node)
        for place, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    for name in classes:
        line, bases = [name], []
        for one in line:  # grows by the parents
            place, node = classes[one]
            bases += foreign_bases(trees[place], one)
            line += [b.id for b in node.bases if isinstance(b, ast.Name) and b.id in classes]
        sources = "".join(
            inspect.getsource(parent)
            for base in bases
            for parent in base.__mro__
            if parent.__module__.split(".")[0] in FOREIGN
            and parent.__module__ != "torch._C"  # written in C++
        )
        for private in defined(classes[name][1]):
            if re.search(rf"(def |self\.){private}\b", sources):
                yield f"{classes[name][0]}: {name}.{private}"


def test_private_names_of_other_libraries_are_met_in_compat_alone() -> None:
    trees = scanned()
    assert set(EXEMPT) <= set(trees)
    own = {name for tree in trees.values() for name in defined(tree)}
    found = [
        f"{place}: {name}"
        for place, tree in trees.items()
        if place not in EXEMPT
        for name in foreign_names(tree, own)
    ]
    assert found == []


def test_no_class_overrides_a_private_name_of_another_library() -> None:
    assert list(overridden(scanned())) == []


@pytest.mark.parametrize(
    "planted",
    [
        "print(model.config._attn_implementation)",
        "model._forward_hooks = {}",
        "hook = getattr(module, '_hf_hook', None)",
        "there = hasattr(module, '_hf_hook')",
        "import torch._dynamo",
        "from torch._ops import OpOverload",
        "from transformers.modeling_utils import _get_dtype",
        "class Mine(Trainer):\n    def f(self):\n        return self._prepare_inputs({})",
        "class Mine(Trainer):\n    def f(self):\n        return super()._prepare_inputs({})",
    ],
)
def test_a_private_name_of_another_library_is_found(planted: str) -> None:
    assert len(list(foreign_names(ast.parse(planted), {"_served"}))) == 1


@pytest.mark.parametrize(
    "planted",
    [
        "class Mine(Trainer):\n    def _prepare_inputs(self, inputs):\n        return inputs",
        "class Mine(Trainer):\n    def f(self):\n        self._train_batch_size = 1",
        "class Mine(Trainer): ...\nclass More(Mine):\n    def _get_grad_norm(self): ...",
    ],
)
def test_an_override_of_a_private_name_is_found(planted: str) -> None:
    tree = ast.parse(f"from transformers import Trainer\n{planted}")
    assert len(list(overridden({"mine.py": tree}))) == 1


def test_own_private_names_are_let_be() -> None:
    code = "class Mine:\n    def _f(self):\n        self._x = 1\n    def g(self, other):\n"
    code += "        return self._f() + other._x + self._served"
    assert list(foreign_names(ast.parse(code), {"_served", "_f", "_x"})) == []


# --- that they are there ---


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return a_trainer(Trainer, tmp_path)


def a_trainer(trainer_class: type[Trainer], folder: Path, **more: Any) -> Any:
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    ids = torch.tensor([1, 2, 3])
    return trainer_class(
        model=LlamaForCausalLM(config),
        args=TrainingArguments(
            str(folder), max_steps=2, report_to=[], disable_tqdm=True, save_strategy="no"
        ),
        train_dataset=[{"input_ids": ids, "labels": ids}] * 8,
        **more,
    )


def test_one_configuration_is_stored_and_read() -> None:
    config = LlamaConfig(attn_implementation="sdpa")
    assert compat.attn_implementation(config) == "sdpa"
    assert compat.stored_attn_implementation(config) == "sdpa"
    compat.store_attn_implementation(config, None)
    assert compat.attn_implementation(config) is None


def test_models_say_whether_they_look_their_attention_up() -> None:
    assert compat.follows_attention_interface(LLAMA.build())
    assert not compat.follows_attention_interface(NOT_SERVED.build())


def test_some_models_say_that_they_carry_a_state() -> None:
    assert any(compat.is_stateful(family.build()) for family in FAMILIES)
    assert not compat.is_stateful(LLAMA.build())


def test_models_say_which_modules_give_attentions() -> None:
    for family in FAMILIES:
        assert compat.recorded_attentions(serve(family.build()).decoder), family.name


def test_a_module_says_whether_it_is_compiled() -> None:
    module = nn.Linear(2, 2)
    assert not compat.is_compiled_in_place(module)
    module.compile(backend="eager")
    assert compat.is_compiled_in_place(module)


def test_the_module_inside_a_compiled_one_is_found() -> None:
    module = nn.Linear(2, 2)
    compiled = torch.compile(module, backend="eager")
    assert compat.inside_compiled(compiled) is module
    assert compat.inside_compiled(module) is None


def test_the_module_inside_fsdp_is_found() -> None:
    module = nn.Linear(2, 2)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        sharded = FullyShardedDataParallel(module, device_id=torch.device("cpu"))
        assert compat.inside_fsdp(sharded) is module
    finally:
        distributed.destroy_process_group()
    assert compat.inside_fsdp(module) is None


def test_hooks_before_a_forward_pass_are_found_in_order() -> None:
    module = nn.Linear(2, 2)
    first, second = (lambda *args: None), (lambda *args: None)
    module.register_forward_pre_hook(second)
    module.register_forward_pre_hook(first, prepend=True)
    assert compat.forward_pre_hooks(module) == [first, second]


def test_modules_that_were_taken_out_are_told_of() -> None:
    module: Any = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1] = None
    assert compat.submodules(module) == {"0": module[0], "1": None}


def test_context_parallelism_is_seen_while_it_lasts() -> None:
    assert not compat.runs_context_parallel()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh, tokens = init_device_mesh("cpu", (1,)), torch.zeros(1, 4)
        with context_parallel(mesh, buffers=[tokens], buffer_seq_dims=[1]):
            assert compat.runs_context_parallel()
    finally:
        distributed.destroy_process_group()
    assert not compat.runs_context_parallel()


def test_a_model_in_one_process_is_neither_tensor_nor_pipeline_parallel() -> None:
    model: Any = LLAMA.build()
    assert compat.tensor_parallel_size(model) == compat.pipeline_stages(model) == 1
    model._tp_size, model._pp_stage = 2, SimpleNamespace(pp_size=3)
    assert (compat.tensor_parallel_size(model), compat.pipeline_stages(model)) == (2, 3)


def test_modules_that_are_sharded_are_prepared_and_put_back() -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        for module in (*model, model):
            fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
        first: Any = model[0]
        assert compat.sharding_mesh(first).ndim == 1
        assert compat.sharding_mesh(model) is None  # its parts hold all parameters
        compat.begin_sharded(model)
        compat.begin_sharded(model)  # a second time changes nothing
        first.unshard()
        assert compat.is_gathered(first)
        assert not compat.is_gathered(model[1])

        def breaks_off(*given: Any) -> None:
            raise RuntimeError("half-way")

        hook = model[1].register_forward_hook(breaks_off, prepend=True)
        with pytest.raises(RuntimeError, match="half-way"):
            model(torch.ones(1, 2))
        hook.remove()
        assert compat.is_gathered(model[1])
        for module in (model, *model):
            compat.end_sharded(module)
            module.reshard()
            assert not compat.is_gathered(module)
        model(torch.ones(1, 2)).sum().backward()
        assert first.weight.grad is not None
    finally:
        distributed.destroy_process_group()


def test_layers_that_mix_tokens_have_their_classes() -> None:
    assert issubclass(nn.Conv1d, compat.convolution_class())
    assert issubclass(nn.ConvTranspose2d, compat.convolution_class())
    assert issubclass(nn.BatchNorm1d, compat.batch_norm_class())
    assert not issubclass(nn.Linear, (compat.convolution_class(), compat.batch_norm_class()))


def test_a_backward_pass_is_told_from_a_forward_pass() -> None:
    found = []
    x = torch.ones(1, requires_grad=True)
    x.register_hook(lambda _: found.append(compat.is_in_backward()))
    found.append(compat.is_in_backward())
    (x * 2).sum().backward()
    assert found == [False, True]
    assert not compat.is_in_backward()


def test_writes_in_place_are_counted_where_they_can_be() -> None:
    x = torch.ones(2)
    before = compat.writes_into(x)
    x[0] = 0
    after = compat.writes_into(x)
    x[:1].mul_(2)
    assert len({before, after, compat.writes_into(x)}) == 3
    with torch.inference_mode():
        assert compat.writes_into(torch.ones(2)) is None


def test_hooks_of_accelerate_are_found_one_by_one() -> None:
    module = nn.Linear(2, 2)
    assert compat.accelerate_hooks(module) == []
    parts = ModelHook(), ModelHook()
    both = SequentialHook(*parts)
    add_hook_to_module(module, both)
    assert compat.accelerate_hooks(module) == [both, *parts]


def test_the_handler_that_calls_is_found(tmp_path: Path) -> None:
    seen = []

    class Watcher(TrainerCallback):  # type: ignore[misc]
        def on_init_end(self, *args: Any, **kwargs: Any) -> None:
            seen.append(compat.calling_handler())

    trainer = a_trainer(Trainer, tmp_path, callbacks=[Watcher()])
    assert seen == [trainer.callback_handler]
    assert compat.calling_handler() is None


def test_a_trainer_is_kept_to_one_gpu(tmp_path: Path) -> None:
    arguments = TrainingArguments(str(tmp_path))
    assert arguments.n_gpu <= torch.cuda.device_count()
    arguments._n_gpu = 4
    compat.use_one_gpu(arguments)
    assert arguments.n_gpu == 1


def test_a_batch_comes_as_the_trainer_prepares_it(trainer: Trainer) -> None:
    inputs = {"input_ids": torch.tensor([[1]])}
    assert compat.prepared_inputs(trainer, inputs)["input_ids"].device == trainer.args.device


def test_a_trainer_checks_the_gradient_before_each_step(tmp_path: Path) -> None:
    norms = []

    @compat.checks_gradient_norm
    class Checking(Trainer):  # type: ignore[misc]
        def check_gradient_norm(self, norm: Any) -> None:
            norms.append((self.state.global_step, float(norm)))

    a_trainer(Checking, tmp_path).train()
    assert [step for step, _ in norms] == [0, 1]
    assert all(norm > 0 for _, norm in norms)


def test_the_versions_in_which_names_were_seen_are_those_that_are_tested() -> None:
    pins = [
        dict(re.findall(r"^([\w-]+)==(\d+\.\d+)", (ROOT / file).read_text("utf-8"), re.MULTILINE))
        for file in ("constraints-oldest.txt", "constraints.txt")
    ]
    for package, versions in compat.SEEN.items():
        assert versions == " to ".join(pin[package] for pin in pins), package


def test_every_function_says_in_which_versions_its_name_was_seen() -> None:
    tree = scanned()["sra_fast/measure/compat.py"]
    texts = {
        node.name: " ".join((ast.get_docstring(node) or "").split())
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not is_private(node.name)
    }
    for name, text in texts.items():
        package, versions = re.findall(r"seen in (\w+) ([\d.]+ to [\d.]+\d)", text)[0]
        assert compat.SEEN[package] == versions, name


def test_a_name_that_is_gone_is_said_with_the_versions() -> None:
    config: Any = SimpleNamespace()
    with pytest.raises(compat.ChangedLibraryError, match=r"_attn_implementation in transformers 5"):
        compat.attn_implementation(config)
    with pytest.raises(compat.ChangedLibraryError, match=r"seen it in transformers 5\.17 to 5\.23"):
        compat.is_stateful(config)
