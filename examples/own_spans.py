"""Asks how much of an answer's attention goes to the rules, to a document and to a tool's output.

    python examples/own_spans.py

No strategies and no templates of the library: the prompt is your own, and three texts say what its
parts are.
"""

from __future__ import annotations

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

import sra_fast
from sra_fast.files.smollm2 import smollm2_folder

RULES = "You are the assistant of a public library. Answer in one sentence, from what is given."
DOCUMENT = "Opening hours: Tuesday to Friday from 10 to 18, Saturday from 10 to 14."
TOOL_OUTPUT = "calendar: today is Saturday, 13:20"
ANSWERS = (
    "The library is open today, Saturday, until 14 o'clock.",
    "The weather will be fine for a walk along the river.",
)


def main() -> None:
    """Print, for two answers, the share of attention on each part of the prompt."""
    name = smollm2_folder()
    model = AutoModelForCausalLM.from_pretrained(name)
    tokenizer = AutoTokenizer.from_pretrained(name)

    for answer in ANSWERS:
        result = sra_fast.score(model, marked_prompt(tokenizer, answer), definition="mass")
        print(answer)
        for span, tokens in zip(result.spans, result.span_tokens[0].tolist(), strict=True):
            share = result.score("mass", span=span).item()
            print(f"  {span:9} {share:7.3%} of the attention, on {tokens} tokens")


def marked_prompt(tokenizer: PreTrainedTokenizerBase, answer: str) -> dict[str, object]:
    """Write a chat and mark its parts, a batch of one row as sra_fast.score takes it."""
    chat = [
        {"role": "system", "content": RULES},
        {"role": "user", "content": f"{DOCUMENT}\n\nTool: {TOOL_OUTPUT}\n\nAre you open now?"},
        {"role": "assistant", "content": answer},
    ]
    return sra_fast.mark(
        tokenizer, chat, spans={"rules": 0, "document": DOCUMENT, "tool": TOOL_OUTPUT}
    )


if __name__ == "__main__":
    main()
