"""Options of the commands that generate replies, and whoever they make reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sra_fast.names import Device, DType

    from ..pipeline.generation.replies import Replier
    from ..pipeline.generation.sampling import Sampling

_GENERATION = "Generation"

EndpointURL = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="An OpenAI-compatible server, such as http://localhost:8000/v1; --model is then the "
        "name it knows, and OPENAI_API_KEY the key if it wants one.",
        show_default=False,
        rich_help_panel=_GENERATION,
    ),
]
Retries = Annotated[
    int, typer.Option("--retries", help="Of a request that met 429, 5xx or nobody.", min=0)
]
Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", help="Until a request has failed.")
]
Temperature = Annotated[
    float,
    typer.Option("--temperature", min=0.0, help="0 is greedy.", rich_help_panel=_GENERATION),
]
TopP = Annotated[float, typer.Option("--top-p", max=1.0, rich_help_panel=_GENERATION)]
MaxNewTokens = Annotated[
    int,
    typer.Option(
        "--max-new-tokens", min=1, help="Where a reply is cut.", rich_help_panel=_GENERATION
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of everything that is drawn.")]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        min=1,
        help="Prompts of a forward pass, or requests at a time.",
        rich_help_panel=_GENERATION,
    ),
]


def replier(
    model: str,
    endpoint: str | None,
    sampling: Sampling,
    batch: int,
    dtype: DType,
    device: Device,
    *,
    retries: int,
    timeout: float,
) -> tuple[Mapping[str, Any], Callable[[], Replier]]:
    """What tells the model from others, and how to make it reply; nothing is loaded yet.

    Args:
        model: of ``--model``.
        endpoint: its URL, or None for a model that is loaded here.
        sampling: how tokens are drawn.
        batch: prompts of a forward pass, or requests at a time.
        dtype, device: of a model that is loaded here.
        retries, timeout: of a request to the endpoint; seconds.

    Raises:
        ValueError: there is no such model, or the endpoint's settings cannot be.
    """
    if endpoint is not None:
        from ..pipeline.endpoint import Endpoint

        place = Endpoint(endpoint, model, timeout=timeout, retries=retries, concurrency=batch)

        def ask() -> Replier:
            from ..pipeline.generation.endpoint_replier import EndpointReplier

            return EndpointReplier(place, sampling, batch=batch)

        return {"name": model, "endpoint": endpoint}, ask

    from sra_fast.files.models import choose_device, find_model

    source, where = find_model(model), choose_device(device)

    def load() -> Replier:
        from ..pipeline.generation.replies import LocalReplier

        return LocalReplier(source.load(dtype, where), source.tokenizer(), sampling, batch=batch)

    return source.as_run(dtype, where), load
