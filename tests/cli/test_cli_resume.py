"""Test that a run which is killed and started again ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_chat_model import save_tiny_model, talk, write_jsonl

# All runs share one import of torch: each is a forked child that shares nothing but the code.
SCRIPT = """
import itertools, json, os, signal, sys
from pathlib import Path
from types import SimpleNamespace

import torch
torch.set_num_threads(1)  # so that forking is safe
from safetensors import safe_open
from sra_fast.cli.app import app
import sra_fast.cli.progress, sra_fast.report.comparison, sra_fast.files.score_file, pandas

import sra_fast.measure.layerwise.kept_layers as kept_layers

kept_layers.time = SimpleNamespace(monotonic=itertools.count(0, 1000).__next__)  # keep each layer
arguments, out = json.loads(sys.argv[1]), Path(sys.argv[2])
replace = os.replace

def run(folder, kill_at=None):
    child = os.fork()
    if child == 0:
        count = 0
        def counted(source, target):
            nonlocal count
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)
            with (folder.parent / f"{folder.name}.written").open("a") as log:
                log.write(Path(target).name + " ")
        os.replace = counted
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        try:
            app([*arguments, "--out", str(folder)])
        except SystemExit as end:
            os._exit(end.code or 0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)

def content(folder):
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
            if path.suffix == ".safetensors":  # writes its metadata in any order
                with safe_open(path, "pt") as file:
                    tensors = {key: file.get_tensor(key) for key in file.keys()}
                    found[str(path.relative_to(folder))] = (
                        file.metadata(),
                        {key: (t.shape, t.numpy().tobytes()) for key, t in tensors.items()},
                    )
    return found

assert run(out / "whole") == 0
whole = content(out / "whole")
written = (out / "whole.written").read_text().split()
print(json.dumps(written))
for kill_at in range(1, len(written) + 1):
    folder = out / f"killed-{kill_at}"
    assert run(folder, kill_at) == -signal.SIGKILL, kill_at
    assert content(folder) != whole, kill_at
    assert run(folder) == 0, kill_at
    assert content(folder) == whole, (kill_at, list(content(folder)))
    done = (out / f"{folder.name}.written").read_text().split()
    shards = [name for name in done if name[0].isdigit()]
    # Whatever was finished is not computed again.
    assert len(shards) == len(set(shards)), (kill_at, done)
"""


SHARDS = ["00000.safetensors", "00001.safetensors", "00002.safetensors"]
KEPT = "pass00000.safetensors"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize(
    ("options", "parts"),
    [((), SHARDS), (("--layerwise",), [name for shard in SHARDS for name in (KEPT, shard)])],
    ids=["whole", "layerwise"],
)
def test_killed_before_any_file_appears_the_run_continues(
    tmp_path: Path, options: tuple[str, ...], parts: list[str]
) -> None:
    model = save_tiny_model(tmp_path / "tiny")
    records = [talk("c1"), talk("c2", 3), talk("c3", response="There is hope.")]
    records[2]["messages"].pop()
    chats = write_jsonl(tmp_path / "chats.jsonl", records)
    arguments = ["score", str(chats), "--model", str(model), "--batch-tokens", "1", *options]
    (tmp_path / "runs").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(arguments), str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        env={"OMP_NUM_THREADS": "1", "PATH": "", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        "run.json",
        *parts,
        "masses.safetensors",
        "scores.jsonl",
        "scores.parquet",
        "run.json",
    ]
