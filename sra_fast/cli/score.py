"""The command ``sra-fast score``, which gives one score to each response of a file.

Under ``torchrun -m sra_fast.cli.score`` or ``accelerate launch -m sra_fast.cli.score`` each process
scores a shard of the file, and the last to finish merges them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sra_fast.cli import options
from sra_fast.cli.engines import check_engine, workers_of
from sra_fast.cli.inputs import RESULTS, choose_strategies, choose_template, make_scorer
from sra_fast.cli.scored_output import show_scores
from sra_fast.cli.session import session
from sra_fast.cli.sharding import score_chosen, score_launched, shard_of_process, take_own_gpu
from sra_fast.files.remote_files import local_copy, name_of
from sra_fast.names import FORWARD_TOKENS, PROFILE_BYTES, ProfileKind, SourceUnit


def score(
    file: options.ConversationPlace,
    model: options.ModelName,
    template: options.TemplateName = "standard",
    strategies: options.StrategyFile = None,
    turns: options.TurnsOption = "all",
    layout: options.LayoutOption = "as_generated",
    thoughts: options.ThoughtsOption = None,
    definition: options.DefinitionOption = "paper",
    out: options.OutFolder = None,
    shard: options.ShardOption = None,
    engine: options.EngineOption = "process",
    workers: options.WorkersOption = None,
    address: options.AddressOption = None,
    batch_tokens: options.BatchTokens = FORWARD_TOKENS,
    dtype: options.DTypeOption = "auto",
    device: options.DeviceOption = "auto",
    backend: options.BackendOption = "auto",
    profile: Annotated[
        ProfileKind | None,
        typer.Option(
            "--profile",
            help="Keep each response's attention on every token, for `sra-fast view`: as one mean "
            "over layers and heads, of each layer, or of every head.",
            show_default=False,
        ),
    ] = None,
    profile_bytes: Annotated[
        int,
        typer.Option(
            "--profile-bytes",
            metavar="N",
            min=1,
            help="The most bytes that the profiles of all replies may take.",
        ),
    ] = PROFILE_BYTES,
    sources: Annotated[
        SourceUnit | None,
        typer.Option(
            "--sources",
            help="With --profile, cut the prompt into messages, into their sentences or into the "
            "documents in them, to tell the attention on each.",
            show_default="messages",
        ),
    ] = None,
    allow_missing: options.AllowMissing = False,
    check: options.CheckOption = True,
    share_prefixes: options.SharePrefixes = True,
    layerwise: options.LayerwiseOption = False,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Score how much each response in a file of conversations attends to its strategy.

    It writes scores.jsonl, scores.parquet and masses.safetensors into a folder of their own, which
    is sra-results/NAME for an input NAME.jsonl unless --out names another. If it is interrupted,
    the same command continues.

    Several processes may share a file, each with a --shard of its own and the same --out. Those
    that torchrun or accelerate launch starts take their shards by themselves. With --engine ray one
    command scores in many workers, on this machine or on a cluster.
    """
    rank, launched = shard_of_process(shard)
    check_engine(engine, workers, address, launched=launched is not None)
    with session(as_json, debug, continues=True, rank=rank) as current:
        chosen = choose_template(template, "--template")
        if sources is not None and profile is None:
            raise typer.BadParameter(
                "goes with a profile; add --profile mean", param_hint="'--sources'"
            )

        from sra_fast.chat.conversations import read_conversations
        from sra_fast.cli.progress import token_progress
        from sra_fast.files.score_jobs import ScoredJob, ShardJob
        from sra_fast.files.scoring_options import ScoringOptions

        folder = out or RESULTS / Path(name_of(file)).stem
        wanted = ScoringOptions(
            definition=definition,
            strategies=choose_strategies(strategies),
            batch_tokens=batch_tokens,
            dtype=dtype,
            device=device,
            backend=backend,
            layout=layout,
            thoughts=thoughts,
            check=check,
            share_prefixes=share_prefixes,
            layerwise=layerwise,
            profile=profile,
            profile_bytes=profile_bytes,
            sources=None if profile is None else sources or "messages",
        )
        take_own_gpu()
        scored: ScoredJob | None = None
        with (
            local_copy(file) as copy,
            workers_of(
                engine, workers, address, model, wanted, allow_missing=allow_missing, debug=debug
            ) as started,
        ):
            conversations = read_conversations(copy, several_strategies=True)
            scorer = make_scorer(copy, model, wanted, allow_missing=allow_missing, workers=started)
            part = shard or launched
            job = scorer.prepare("score", folder, conversations, chosen, turns, shard=part)
            about = {"model": scorer.source.name, "template": chosen.name, "definition": definition}
            if isinstance(job, ShardJob):
                score_shard = score_chosen if launched is None else score_launched
                score_shard(current, scorer, job, about)
            elif current.speaks:  # of several processes that find a merged run, one
                with token_progress(current, [job]) as on_progress:
                    (scored,) = scorer.run([job], on_progress)
        if scored is not None:
            checked = scored.result.checked
            show_scores(current, "score", folder, scored.rows, **about, checked=checked)


if __name__ == "__main__":
    from sra_fast.cli.entry import main

    main("score")
