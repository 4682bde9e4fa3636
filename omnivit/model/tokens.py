"""Tokenizers by their path, and a byte-level one built in code, for tiny models that need no files."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from omnivit.model.pretrained import REMOTE_CODE, explained
from omnivit.model.weights import locate

BYTES = "bytes"
"""The name of the byte-level tokenizer in recipes."""
PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
RESERVED = tuple(f"<|reserved_{number}|>" for number in range(5))
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """A token for each byte (its id is the byte), then pad 256, turn start 257, turn end 258 and five reserved.

    The chat template is ChatML without a default system message; the end of a turn is the end of the text.
    """
    vocabulary = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, START, END, *RESERVED])
    fast: PreTrainedTokenizerBase = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, additional_special_tokens=[START, *RESERVED]
    )
    fast.chat_template = CHATML
    return fast


def read_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """A tokenizer by its path: a hub id, a folder, `pkg:NAME/FOLDER`, or `bytes` for the byte-level one.

    Raises:
        RecipeError: there is none, or it cannot be read.
    """
    if path == BYTES:
        return byte_tokenizer()
    with explained(f"The tokenizer {path!r} cannot be read"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(locate(path), **REMOTE_CODE)
        return tokenizer


def _byte_symbols() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE (GPT-2): itself, or one above U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]
