"""The command ``sra-fast reproduce``, which runs all the paper's experiments on one model."""

from __future__ import annotations

from typing import Annotated

import typer

from sra_fast.cli import options
from sra_fast.cli.session import session
from sra_fast.names import TEST_SHARE, VALIDATION_SHARE, ClassifierKind, DType

from . import pipeline_options, replying
from .classify import seeded_settings


def reproduce(
    file: pipeline_options.DialogueFile,
    model: options.ModelName,
    out: pipeline_options.RunOut,
    config: pipeline_options.TrainingSettings = None,
    classifier: Annotated[
        ClassifierKind,
        typer.Option(
            "--classifier",
            help="The kind of classifier to train on the extended dialogues; it tells which "
            "strategy a reply follows.",
        ),
    ] = "lexical",
    strategies: options.StrategyFile = None,
    thoughts: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--thoughts",
            metavar="OPEN CLOSE",
            help=options.THOUGHTS,
            show_default="those of --config, or of the chat template",
        ),
    ] = None,
    dialogues: pipeline_options.MostDialogues = None,
    cuts: pipeline_options.MostCuts = None,
    test: pipeline_options.TestShare = TEST_SHARE,
    validation: pipeline_options.ValidationShare = VALIDATION_SHARE,
    items: Annotated[
        int | None,
        typer.Option(
            "--items",
            metavar="N",
            min=1,
            help="Evaluate at most this many conversations of the test part, drawn at random.",
            show_default="all",
        ),
    ] = None,
    ablate: pipeline_options.AblatedHeads = 10,
    temperature: replying.Temperature = 0.7,
    top_p: replying.TopP = 0.9,
    max_new_tokens: replying.MaxNewTokens = 512,
    batch_size: replying.BatchSize = 32,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="N",
            min=0,
            help=pipeline_options.SEED,
            show_default="that of --config, or 42",
        ),
    ] = None,
    dtype: Annotated[
        DType | None,
        typer.Option(
            "--dtype",
            help=options.DTYPE,
            show_default="that of --config, or auto",
        ),
    ] = None,
    device: options.DeviceOption = "auto",
    allow_missing: options.AllowMissing = False,
    check: options.CheckOption = True,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Extend the dialogues, train a classifier, fine-tune, evaluate, and write one report.

    The stages are those of 'extend', 'classify train', 'train' and 'evaluate', each in a folder of
    its own below that of --out. The files report.md and results.json and the figures hold what was
    found, and no text of the dialogues. If it is interrupted, the same command continues.
    """
    with session(as_json, debug, continues=True) as current:
        from sra_fast.chat.strategies import STRATEGIES, read_strategies
        from sra_fast.files.models import find_model

        from ..pipeline.extension.cuts import Cutting
        from ..pipeline.generation.sampling import Sampling
        from ..pipeline.reproduction.reproduce import Progress
        from ..pipeline.reproduction.reproduce import reproduce as run
        from ..pipeline.reproduction.stages import Reproduction, read_training
        from .pipeline_progress import (
            condition_progress,
            reply_progress,
            step_progress,
        )

        training = read_training(
            config, strategies=strategies, seed=seed, dtype=dtype, thoughts=thoughts
        )
        results = run(
            Reproduction(
                file=file,
                out=out,
                base=find_model(model, allow_missing=allow_missing),
                strategies=STRATEGIES if strategies is None else read_strategies(strategies),
                cutting=Cutting(cuts=cuts, dialogues=dialogues, seed=training.seed),
                sampling=Sampling(temperature, top_p, max_new_tokens, training.seed),
                test=test,
                validation=validation,
                training=training,
                classifier=classifier,
                classifier_settings=seeded_settings(classifier, training.seed),
                items=items,
                ablate=ablate,
                dtype=training.dtype,
                device=device,
                batch=batch_size,
                check=check,
            ),
            Progress(
                replies=lambda: reply_progress(current),
                steps=lambda: step_progress(current),
                conditions=lambda: condition_progress(current),
            ),
        )
        current.say(f"written to {out}; {out / 'report.md'} is for reading")
        current.result = {"command": "reproduce", "out": str(out), **results}
