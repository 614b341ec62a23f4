"""Make tiny tokenizers and chat templates in the shapes that models in use have."""

from __future__ import annotations

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

CONTROL_TOKENS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<turn>", "<end_turn>", "[INST]")

CHATML = """\
{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}\
{%- endfor %}"""

# This template merges the system text into the first user message, wants strict order, and writes
# its own BOS.
LLAMA_2 = """\
{%- if messages[0]['role'] == 'system' %}{%- set sys = '<<SYS>>\n' + messages[0]['content'] + \
'\n<</SYS>>\n\n' %}{%- set chat = messages[1:] %}{%- else %}{%- set sys = '' %}\
{%- set chat = messages %}{%- endif %}\
{%- for m in chat %}\
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{- raise_exception('roles must alternate, the user first') }}{%- endif %}\
{%- if m['role'] == 'user' %}\
{{- bos_token + '[INST] ' + (sys if loop.first else '') + m['content'] | trim + ' [/INST]' }}\
{%- else %}{{- ' ' + m['content'] | trim + ' ' + eos_token }}{%- endif %}{%- endfor %}"""

# This template has no system role, and raises an error for one.
GEMMA = """\
{{- bos_token }}{%- for m in messages %}\
{%- if m['role'] == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}\
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{- raise_exception('roles must alternate, the user first') }}{%- endif %}\
{{- '<turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' + m['content'] | trim + \
'<end_turn>\n' }}{%- endfor %}"""

# This template puts the system text into the last message if that is the user's, so that a chat
# that ends with a reply has none at all.
MISTRAL = """\
{{- bos_token }}{%- if messages[0]['role'] == 'system' %}{%- set sys = messages[0]['content'] %}\
{%- set chat = messages[1:] %}{%- else %}{%- set chat = messages %}{%- endif %}\
{%- for m in chat %}\
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{- raise_exception('roles must alternate, the user first') }}{%- endif %}\
{%- if m['role'] == 'user' %}{{- '[INST]' }}\
{%- if loop.last and sys is defined %}{{- sys + '\n\n' }}{%- endif %}\
{{- m['content'] + '[/INST]' }}{%- else %}{{- m['content'] + eos_token }}{%- endif %}\
{%- endfor %}"""

# This template removes the thoughts from earlier replies and puts an empty one before the last.
QWEN_3 = """\
{%- for m in messages %}{%- set text = m['content'] %}{%- set thought = '' %}\
{%- if m['role'] == 'assistant' and '</think>' in text %}\
{%- set thought = text.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}\
{%- set text = text.split('</think>')[-1].lstrip('\n') %}{%- endif %}\
{{- '<|im_start|>' + m['role'] + '\n' }}\
{%- if m['role'] == 'assistant' and loop.last %}\
{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{%- endif %}\
{{- text + '<|im_end|>\n' }}{%- endfor %}"""

DROPS_SYSTEM = CHATML.replace(
    "{%- for m in messages %}", "{%- for m in messages if m['role'] != 'system' %}"
)
TRIMS = CHATML.replace("m['content']", "m['content'] | trim")

SOUND_TEMPLATES = {
    "chatml": CHATML,
    "llama_2": LLAMA_2,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "qwen_3": QWEN_3,
    "drops_system": DROPS_SYSTEM,
    "trims": TRIMS,
}


def saying(old: str, new: str | None = None) -> str:
    """Return a ChatML template that writes assistant messages as an expression of ``text`` says.

    The last message is written as ``new`` says, if that is given.
    """
    text = f"({new} if loop.last else {old})" if new else old
    return (
        "{%- for m in messages %}{%- set text = m['content'] %}{{- '<|im_start|>' + m['role'] + "
        "'\n' }}{%- if m['role'] == 'assistant' %}{{- " + text + " }}{%- else %}{{- text }}"
        "{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
    )


def wrapped(
    backend: Tokenizer, template: str | None, *, adds_bos: bool = False, **special: str
) -> PreTrainedTokenizerFast:
    """Return the backend with control tokens and a chat template, as transformers loads it."""
    backend.add_special_tokens([AddedToken(token, special=True) for token in CONTROL_TOKENS])
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
        )
    named = {"bos_token": "<s>", "eos_token": "</s>", **special}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    tokenizer.chat_template = template
    return tokenizer


def byte_level_bpe(template: str | None = CHATML, **special: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes, whose merges pull blanks, quotes and breaks into nearby letters.

    It also adds a BOS by itself, as Llama 3's does, unless it is told to leave that out.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", '"'), ("Ġ", "H"), ("o", "p"), ("op", "e"), ("Ċ", "Ċ"), ("Ġ", "t"), (".", "Ċ")]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *("".join(m) for m in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return wrapped(backend, template, adds_bos=True, **special)


def metaspace_unigram(template: str | None = CHATML, **special: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of SentencePiece's kind: pieces that mark a blank before, no bytes."""
    pieces = ["<unk>", "▁", "▁the", "▁Ho", "pe", '▁"', "ing", *map(chr, range(33, 127)), "\n"]
    backend = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], 0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return wrapped(backend, template, unk_token="<unk>", **special)


def word_piece(template: str | None = CHATML, **special: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of words and their tails, without blanks, in lower case, like BERT's."""
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    vocabulary = ["[UNK]", *characters, *(f"##{c}" for c in characters), "hope", "##ing"]
    numbered = {token: i for i, token in enumerate(vocabulary)}
    backend = Tokenizer(models.WordPiece(numbered, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return wrapped(backend, template, unk_token="[UNK]", **special)


TOKENIZERS = {
    "byte_level_bpe": byte_level_bpe,
    "metaspace_unigram": metaspace_unigram,
    "word_piece": word_piece,
}
