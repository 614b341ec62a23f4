"""The command ``sra-fast score``, which gives one score to each response of a file."""

from __future__ import annotations

from typing import Annotated

import typer

from sra_fast.cli import options
from sra_fast.cli.inputs import RESULTS, choose_strategies, choose_template, make_scorer
from sra_fast.cli.session import session
from sra_fast.names import FORWARD_TOKENS, PROFILE_BYTES, ProfileKind, SourceUnit


def score(
    file: options.ConversationFile,
    model: options.ModelName,
    template: options.TemplateName = "standard",
    strategies: options.StrategyFile = None,
    turns: options.TurnsOption = "all",
    layout: options.LayoutOption = "as_generated",
    thoughts: options.ThoughtsOption = None,
    definition: options.DefinitionOption = "paper",
    out: options.OutFolder = None,
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
    layerwise: options.LayerwiseOption = False,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Score how much each response in a file of conversations attends to its strategy.

    It writes scores.jsonl, scores.parquet and masses.safetensors into a folder of their own, which
    is sra-results/NAME for an input NAME.jsonl unless --out names another. If it is interrupted,
    the same command continues.
    """
    with session(as_json, debug, continues=True) as current:
        chosen = choose_template(template, "--template")
        if sources is not None and profile is None:
            raise typer.BadParameter(
                "goes with a profile; add --profile mean", param_hint="'--sources'"
            )

        from sra_fast.chat.conversations import read_conversations
        from sra_fast.cli.progress import token_progress
        from sra_fast.cli.tables import estimates_table
        from sra_fast.files.run_folder import RUN
        from sra_fast.files.score_file import ScoringOptions
        from sra_fast.files.score_folder import MASSES
        from sra_fast.files.score_tables import SCORES_JSONL, SCORES_PARQUET
        from sra_fast.report.comparison import groups, interval_note, mean_sra, undefined_note
        from sra_fast.result import PASSED

        conversations = read_conversations(file)
        folder = out or RESULTS / file.stem
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
            layerwise=layerwise,
            profile=profile,
            profile_bytes=profile_bytes,
            sources=None if profile is None else sources or "messages",
        )
        scorer = make_scorer(file, model, wanted, allow_missing=allow_missing)
        job = scorer.prepare("score", folder, conversations, chosen, turns)
        with token_progress(current, [job]) as on_progress:
            (scored,) = scorer.run([job], on_progress)

        whole = mean_sra(scored.rows)
        by_strategy = groups(scored.rows, lambda row: row["strategy"])
        estimates = {name: mean_sra(by_strategy[name]) for name in sorted(by_strategy)}
        current.show(
            estimates_table(
                f"SRA ({definition} definition), template {chosen.name}",
                ("strategy",),
                [*(((name,), e) for name, e in estimates.items()), (("all",), whole)],
            )
        )
        if undefined := undefined_note(definition, [whole]):
            current.say(undefined)
        if missing := interval_note([whole, *estimates.values()]):
            current.say(missing)
        if (checked := scored.result.checked) != PASSED:
            current.say(f"self-check of the model: {checked}")
        current.say(f"written to {folder}")
        current.result = {
            "command": "score",
            "out": str(folder),
            "files": [SCORES_JSONL, SCORES_PARQUET, MASSES, RUN],
            "model": scorer.source.name,
            "template": chosen.name,
            "definition": definition,
            "checked": checked,
            **whole.to_json(),
            "by_strategy": [{"strategy": name, **e.to_json()} for name, e in estimates.items()],
            "scores": scored.rows,
        }
