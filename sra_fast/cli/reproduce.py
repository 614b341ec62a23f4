"""``sra-fast reproduce``: every experiment of the paper on one model, by one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sra_fast.cli import generation, options
from sra_fast.cli.classify import ClassifierKind
from sra_fast.cli.session import session


def reproduce(
    file: options.DialogueFile,
    model: options.ModelName,
    out: options.RunOut,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE.yaml",
            help="Settings of the fine-tuning by name (sra_fast.training.config has all).",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default="the paper's",
        ),
    ] = None,
    classifier: Annotated[
        ClassifierKind,
        typer.Option("--classifier", help="The kind that is trained and judges adherence."),
    ] = ClassifierKind.LEXICAL,
    strategies: options.StrategyFile = None,
    dialogues: options.MostDialogues = None,
    cuts: options.MostCuts = None,
    test: options.TestShare = 0.077,
    validation: options.ValidationShare = 0.039,
    items: Annotated[
        int | None,
        typer.Option(
            "--items", min=1, help="Most responses of a row of the evaluation.", show_default="all"
        ),
    ] = None,
    ablate: options.AblatedHeads = 10,
    temperature: generation.Temperature = 0.7,
    top_p: generation.TopP = 0.9,
    max_new_tokens: generation.MaxNewTokens = 512,
    batch_size: generation.BatchSize = 32,
    seed: generation.Seed = 42,
    dtype: options.DTypeOption = options.DType.AUTO,
    device: options.DeviceOption = options.Device.AUTO,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Extend the dialogues, train a classifier, fine-tune, evaluate, and write one report.

    The stages are those of 'extend', 'classify train', 'train' and 'evaluate', in folders of their
    own under DIR; report.md, results.json and the figures are for reading and hold no text of the
    dialogues. Killed at any moment, the same command continues.
    """
    with session(as_json, debug) as current:
        from sra_fast.cli.progress import reply_progress, row_progress, step_progress
        from sra_fast.loading import find_model
        from sra_fast.strategies import STRATEGIES, read_strategies
        from sra_fast.training.config import read_config
        from sra_fast.training.extension.cuts import Cutting
        from sra_fast.training.generation.sampling import Sampling
        from sra_fast.training.reproduction.plan import Reproduction
        from sra_fast.training.reproduction.run import Progress
        from sra_fast.training.reproduction.run import reproduce as run

        results = run(
            Reproduction(
                file=file,
                out=out,
                base=find_model(model),
                strategies=STRATEGIES if strategies is None else read_strategies(strategies),
                cutting=Cutting(cuts=cuts, dialogues=dialogues, seed=seed),
                sampling=Sampling(temperature, top_p, max_new_tokens, seed),
                test=test,
                validation=validation,
                training=read_config(
                    config,
                    {
                        "seed": seed,
                        "dtype": dtype.value,
                        "strategies": None if strategies is None else str(strategies),
                    },
                ),
                classifier=classifier.value,
                items=items,
                ablate=ablate,
                dtype=dtype.value,
                device=device.value,
                batch=batch_size,
                say=current.say,
            ),
            Progress(
                replies=lambda: reply_progress(current),
                steps=lambda: step_progress(current),
                rows=lambda: row_progress(current),
            ),
        )
        current.say(f"written to {out}; {out / 'report.md'} is for reading")
        current.result = {"command": "reproduce", "out": str(out), **results}
