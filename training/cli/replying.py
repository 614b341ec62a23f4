"""Options of the commands that generate replies, and what they choose to write the replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sra_fast.names import TokenLimit

from . import pipeline_options

if TYPE_CHECKING:
    from sra_fast.chat.thoughts import Thoughts
    from sra_fast.files.models import ModelSource
    from sra_fast.names import Device, DType

    from ..pipeline.generation.replies import Replier
    from ..pipeline.generation.sampling import Sampling

_GENERATION = "Generating replies"

EndpointURL = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="The URL of an OpenAI-compatible server that replies instead of a model loaded here, "
        "such as http://localhost:8000/v1; --model is then the name that the server knows, and "
        "OPENAI_API_KEY holds the key if it wants one.",
        show_default=False,
        rich_help_panel=_GENERATION,
    ),
]
Retries = Annotated[
    int,
    typer.Option(
        "--retries",
        metavar="N",
        min=0,
        help="How many times to repeat a request to an endpoint that timed out, found no server or "
        "met status 408, 409, 429 or 5xx; 0 repeats none.",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        help="How many seconds an endpoint has for a whole answer; then the request has failed.",
    ),
]
TokenLimitName = Annotated[
    TokenLimit,
    typer.Option(
        "--token-limit",
        help="The name under which an endpoint takes the most tokens of an answer. If it refuses "
        "that name, the other one is sent.",
    ),
]
TEMPERATURE = (
    "Divide the logits by this number before a token is drawn; 0 is greedy decoding, which always "
    "takes the likeliest token."
)
Temperature = Annotated[
    float,
    typer.Option(
        "--temperature",
        metavar="NUMBER",
        min=0.0,
        help=TEMPERATURE,
        rich_help_panel=_GENERATION,
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        "--top-p",
        metavar="SHARE",
        max=1.0,
        help="Draw each token from the likeliest ones that together reach this probability, above "
        "0; 1 draws from all tokens.",
        rich_help_panel=_GENERATION,
    ),
]
MaxNewTokens = Annotated[
    int,
    typer.Option(
        "--max-new-tokens",
        metavar="N",
        min=1,
        help="Cut a reply after this many tokens.",
        rich_help_panel=_GENERATION,
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help=pipeline_options.SEED)]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="How many replies to generate at a time: in one forward pass of the model, or as "
        "requests to an endpoint.",
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
    allow_missing: bool,
    thoughts: Thoughts | None,
    out: Path,
    token_limit: TokenLimit,
) -> tuple[Mapping[str, Any], Callable[[], Replier], ModelSource | None]:
    """Return the settings that identify a model, a function that loads it to reply, and its source.

    The source is None for a model behind an endpoint.

    Args:
        model: the model that replies, as ``--model`` names it.
        endpoint: the URL of the server that knows the model, or None to load the model here.
        sampling: how tokens are drawn.
        batch: how many prompts a forward pass takes, or how many requests are sent at a time.
        dtype, device: the number format and the device of a model that is loaded here.
        retries: how many times a failed request to the endpoint is repeated.
        timeout: the seconds that the endpoint has for a whole answer.
        token_limit: the name under which the endpoint takes the most tokens of an answer.
        allow_missing: whether weights that the model's files lack are only told.
        thoughts: the tags around a thought before a reply, which is taken off.
        out: the folder of the run, whose date a chat template with a date writes.

    Raises:
        ValueError: there is no such model, its files do not hold all of its weights, or the
            endpoint's settings cannot be.
    """
    if endpoint is not None:
        from ..pipeline.endpoint import Endpoint

        place = Endpoint(
            endpoint,
            model,
            timeout=timeout,
            retries=retries,
            concurrency=batch,
            token_limit=token_limit,
        )

        def ask() -> Replier:
            from ..pipeline.generation.endpoint_replier import EndpointReplier

            return EndpointReplier(place, sampling, batch=batch, thoughts=thoughts)

        return {"name": model, "endpoint": endpoint}, ask, None

    from sra_fast.files.models import choose_device, find_model

    source, where = find_model(model, allow_missing=allow_missing), choose_device(device)
    source.check()

    def load() -> Replier:
        from sra_fast.files.run_date import first_day, start_of

        from ..pipeline.generation.replies import LocalReplier

        return LocalReplier(
            source.load(dtype, where),
            source.tokenizer(),
            sampling,
            batch=batch,
            thoughts=thoughts,
            now=start_of(first_day(out, source)),
        )

    return source.as_run(dtype, where), load, source
