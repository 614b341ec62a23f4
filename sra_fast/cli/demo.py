"""The command ``sra-fast demo``, which compares templates on the library's own conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sra_fast.cli import options
from sra_fast.cli.compare import TEMPLATE_FOLDERS, template_folder
from sra_fast.cli.inputs import make_scorer
from sra_fast.cli.session import session
from sra_fast.names import Device, DType

_CONVERSATIONS = Path(__file__).parents[1] / "chat" / "data" / "demo_conversations.jsonl"
_DRIFT_FOLDER = "drift"


def demo(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            file_okay=False,
            help="The folder to write tables, pictures and scores into.",
        ),
    ] = Path("demo-results"),
    model: Annotated[
        str, typer.Option("--model", metavar="NAME_OR_DIR", help=options.MODEL)
    ] = "smollm2",
    dtype: Annotated[
        DType,
        typer.Option(
            "--dtype",
            help="The number format to load the weights in; auto is bfloat16 on a CPU that "
            "computes in it, and else the format they are stored in.",
        ),
    ] = "auto",
    device: options.DeviceOption = "auto",
    allow_missing: options.AllowMissing = False,
    check: options.CheckOption = True,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Compare prompt templates on six sample conversations with SmolLM2-135M-Instruct.

    It scores the last reply of five short conversations under all seven prompt templates, and
    every reply of a long one in a single forward pass, which shows how attention to the strategy
    drifts. Everything is computed anew, and the results of an earlier demo in the folder of --out
    are replaced.
    """
    with session(as_json, debug, continues=False) as current:
        from sra_fast.chat.conversations import read_conversations
        from sra_fast.chat.templates import TEMPLATES
        from sra_fast.cli.progress import token_progress
        from sra_fast.cli.tables import comparison_tables
        from sra_fast.files.run_folder import RunFolder
        from sra_fast.files.scoring_options import ScoringOptions
        from sra_fast.report.comparison import compare
        from sra_fast.report.write import REPORT_FILES, write_report

        conversations = read_conversations(_CONVERSATIONS)
        short = [one for one in conversations if one.response is not None]
        long = [one for one in conversations if one.response is None]
        definition = "paper"
        chosen = quick_dtype(device) if dtype == "auto" else dtype
        wanted = ScoringOptions(definition=definition, dtype=chosen, device=device, check=check)
        scorer = make_scorer(_CONVERSATIONS, model, wanted, allow_missing=allow_missing)
        scorer.load()
        whole = RunFolder(out, scorer.settings("demo"))
        with whole.opened(replacing=[TEMPLATE_FOLDERS, _DRIFT_FOLDER, *REPORT_FILES]):
            jobs = [
                scorer.prepare("demo", template_folder(out, template.name), short, template, "last")
                for template in TEMPLATES.values()
            ]
            folder = out / _DRIFT_FOLDER
            jobs.append(scorer.prepare("demo", folder, long, TEMPLATES["standard"], "all"))
            with token_progress(current, jobs) as on_progress:
                *scored, drift = scorer.run(jobs, on_progress)
            rows = [row for one in scored for row in one.rows]
            comparison = compare(definition, list(TEMPLATES), rows, drift.rows)
            turns = len(drift.rows)
            notes = [
                f"Model {scorer.source.name} (dtype {chosen}), the library's own sample "
                "conversations.",
                f"By template and by strategy: the last reply of {len(short)} short conversations. "
                f"By turn: all {turns} replies of a long one, in one forward pass.",
            ]
            write_report(comparison, out, notes)
            whole.finish()
        for table in comparison_tables(comparison):
            current.show(table)
        current.say(f"{scorer.source.name}: results in {out}")
        for name in REPORT_FILES:
            current.say(f"  {out / name}")
        current.result = {
            "command": "demo",
            "out": str(out),
            "files": list(REPORT_FILES),
            "model": scorer.source.name,
            "dtype": chosen,
            **comparison.to_json(),
        }


def quick_dtype(device: Device) -> DType:
    """Return "bfloat16" on a CPU with instructions for it: twice as fast, means within about 1%."""
    import torch

    from sra_fast.files.models import choose_device

    if choose_device(device) == "cpu":
        can: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        if can.get("amx_bf16") or can.get("avx512_bf16"):
            return "bfloat16"
    return "auto"
