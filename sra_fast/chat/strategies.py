"""Name the support strategies, describe each, and read a user's own from a file.

The names are those of arXiv 2402.10453 and of the ESConv data set; the descriptions are this
project's own. A name stands in the prompt as it is written here, in straight double quotes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.strict_json import clean_text, decode_utf8, parse_json
from sra_fast.tools.suggestions import did_you_mean

# All characters that a terminal, an editor or a chat template may take for the end of a line.
_LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


class StrategyError(ArgumentError):
    """Raised when a strategy name is unknown or cannot be used.

    The message says which name it is, and the way out.
    """


STRATEGIES: Mapping[str, str] = MappingProxyType(
    {
        "Affirmation": (
            "Point to a strength, an effort or a good intention that shows in what the person "
            "said, and tell them that it counts."
        ),
        "Avoid Judgment and Criticism": (
            "Take what the person says as it comes, without blame, correction or moral weight, so "
            "that they can go on speaking freely."
        ),
        "Clarification": (
            "Ask about the part that is still unclear, or say back what you think was meant, so "
            "that the two of you talk about the same thing."
        ),
        "Collaborative Planning": (
            "Work out the next step together: ask what the person could see themselves doing, and "
            "shape it with them into something small and concrete."
        ),
        "Emotional Validation": (
            "Name the feeling you hear and let the person know that it makes sense in their place."
        ),
        "Normalize Experiences": (
            "Let the person know that many people go through the same and react alike, so that "
            "they feel neither odd nor alone."
        ),
        "Offer Hope": (
            "Give the person an honest reason to believe that things can get better, without "
            "making light of how hard they are now."
        ),
        "Promote Self-Care Practices": (
            "Encourage the person to look after body and mind: sleep, food, movement, rest, or "
            "something that does them good."
        ),
        "Provide Different Perspectives": (
            "Offer another angle from which the same situation can be seen, and leave it to the "
            "person whether it fits."
        ),
        "Reflective Statements": (
            "Give back the heart of what the person said in your own words, so that they hear that "
            "they were understood."
        ),
        "Reframe Negative Thoughts": (
            "Take up a harsh or hopeless thought that the person voiced and help them put it into "
            "a fairer and more useful one."
        ),
        "Share Information": (
            "Give facts or pointers to sources of help that bear on the person's problem, briefly "
            "and in plain words."
        ),
        "Stress Management": (
            "Show the person a way to bring tension down, such as slow breathing, a short pause, "
            "or cutting a task into pieces."
        ),
        "Suggest Options": (
            "Lay out a few things that the person could do about their problem, without telling "
            "them which to choose."
        ),
        "Chit Chat": (
            "Talk lightly about everyday things, to open or close the conversation or to make it "
            "feel at ease."
        ),
    }
)
"""The paper's 15 strategies, as a mapping of names to descriptions."""

ESCONV_STRATEGIES: Mapping[str, str] = MappingProxyType(
    {
        "Question": (
            "Ask something that invites the person to tell more about what happened and how it is "
            "for them."
        ),
        "Restatement or Paraphrasing": (
            "Say again, shorter and in other words, what the person just told you."
        ),
        "Reflection of feelings": (
            "Put into words the feelings that speak from the person's message."
        ),
        "Self-disclosure": (
            "Tell of something similar that you lived through or felt yourself, to show that you "
            "know what it is like."
        ),
        "Affirmation and Reassurance": (
            "Acknowledge what the person does well and can do, and give them courage."
        ),
        "Providing Suggestions": (
            "Propose something that the person could try, as an offer and not as an order."
        ),
        "Information": (
            "Pass on useful facts, figures, sources or answers about the matter at hand."
        ),
        "Others": (
            "Anything else that keeps the conversation friendly, such as a greeting, thanks or a "
            "good-bye."
        ),
    }
)
"""The eight strategies that ESConv is annotated with, as a mapping of names to descriptions."""

DEFAULT_STRATEGIES: Mapping[str, str] = MappingProxyType({**STRATEGIES, **ESCONV_STRATEGIES})
"""All 23 strategies of the library: the paper's 15 and the eight of ESConv."""


def lookup(name: str, strategies: Mapping[str, str] = DEFAULT_STRATEGIES) -> str:
    """Return the description of the strategy with exactly this name.

    Raises:
        TypeError: ``strategies`` is not a mapping.
        StrategyError: there is no such strategy (the nearest is suggested), or its name cannot
            stand in quotes in a prompt.
    """
    if not isinstance(strategies, Mapping):
        raise TypeError(
            "strategies must be a mapping of names to descriptions, such as {'Offer Hope': 'Give "
            f"the person …'}}, found {type(strategies).__name__}"
        )
    if name in strategies:
        _check_name(name, f"strategy {name!r}")
        return strategies[name]
    names = ", ".join(repr(known) for known in strategies)
    many = f"{len(strategies)} strategies" if len(strategies) != 1 else "strategies"
    hint = did_you_mean(name, strategies) or f"; known: {names}."
    raise StrategyError(
        f"strategy {name!r} is not one of the {many}{hint} To use your own, give strategies that "
        "hold it",
        "strategies",
    )


def read_strategies(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a user's own strategies from a JSON file, as a mapping of names to descriptions.

    The file holds one object of that kind, or a list of
    ``{"name": ..., "description": ...}`` objects.

    Raises:
        StrategyError: the file is not in that form; a name or description is empty or not a
            string, or a name stands twice or has quotes or line breaks in it.
        OSError: the file cannot be read.
    """
    file = Path(path)
    try:
        text = decode_utf8(file.read_bytes(), file.name, raises=StrategyError)
        return _named_descriptions(parse_json(text, file.name, raises=StrategyError), file.name)
    except StrategyError as error:
        raise StrategyError(str(error), "strategies") from error


def _named_descriptions(value: object, where: str) -> dict[str, str]:
    if isinstance(value, dict):
        pairs = [(name, description, where) for name, description in value.items()]
    elif isinstance(value, list):
        pairs = [_pair(entry, f"{where} entry {number}") for number, entry in enumerate(value, 1)]
    else:
        raise StrategyError(
            f"{where}: expected an object (name to description) or a list of "
            f"{{'name', 'description'}} objects, found {type(value).__name__}"
        )
    if not pairs:
        raise StrategyError(f"{where}: holds no strategy; give at least one name and description")
    strategies: dict[str, str] = {}
    for raw_name, raw_description, place in pairs:
        name = clean_text(raw_name, f"{place}: the name of a strategy", raises=StrategyError)
        _check_name(name, f"{place}: strategy {name!r}")
        if name in strategies:
            raise StrategyError(f"{place}: strategy {name!r} is described twice; keep one")
        strategies[name] = clean_text(
            raw_description, f"{place}: description of {name!r}", raises=StrategyError
        )
    return strategies


def _pair(entry: object, where: str) -> tuple[object, object, str]:
    if not isinstance(entry, dict) or set(entry) != {"name", "description"}:
        found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        unknown = set(entry) - {"name", "description"} if isinstance(entry, dict) else set()
        hints = [did_you_mean(key, ("name", "description")) for key in sorted(unknown)]
        hint = next(filter(None, hints), "")
        raise StrategyError(f"{where}: expected {{'name', 'description'}}, found {found}{hint}")
    return entry["name"], entry["description"], where


def _check_name(name: str, what: str) -> None:
    # The name stands between double quotes in one line of the prompt, and its span is found there.
    if '"' in name:
        raise StrategyError(f'{what} has a double quote (") in it; use another sign')
    if any(character in name for character in _LINE_BREAKS):
        raise StrategyError(f"{what} has a line break in it; write the name in one line")
