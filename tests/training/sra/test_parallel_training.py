"""Test that ``SRATrainer`` takes the same step where two processes share the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddp_training import one_step

SUPPORT = Path(__file__).resolve().parents[2] / "support"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes trained."""
    folder = tmp_path_factory.mktemp("parallel_training")
    paths = [str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH"), str(SUPPORT.parents[1])])]
    subprocess.run(
        [sys.executable, str(SUPPORT / "parallel_training.py"), str(folder)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        check=True,
        capture_output=True,
        timeout=300,
    )
    return folder


@pytest.mark.parametrize(
    ("kind", "name"),
    [("tensor_parallel", "LlamaForCausalLM"), ("sharded", "FSDPLlamaForCausalLM")],
)
def test_a_shared_model_takes_the_step_and_logs_the_means_of_one_process(
    trained: Path, tmp_path: Path, kind: str, name: str
) -> None:
    alone = one_step(tmp_path, batch=4, collator="padded")
    outcome = json.loads((trained / f"{kind}.json").read_text())
    assert outcome["class"] == name
    for line, wanted in zip(outcome["log"][:2], alone.state.log_history[:2], strict=True):
        assert line.keys() == wanted.keys()
        for what in wanted:
            if "sra" in what or what in ("loss", "lm_loss"):
                assert line[what] == pytest.approx(wanted[what], rel=1e-4), what
    assert outcome["n"] == [8, 5]
    weights = load_file(trained / f"{kind}.safetensors")
    for what, weight in alone.model.named_parameters():
        torch.testing.assert_close(weights[what], weight.data, rtol=0, atol=1e-5)
