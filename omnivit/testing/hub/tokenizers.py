"""Small tokenizers of the kinds that published models have, built in milliseconds, always the same.

Nothing is learnt: merges that lead to a few words, letter by letter, are written down (training depends on the order of
threads where pairs are equally frequent).
"""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WORDS = (
    *("▁the", "▁a", "▁is", "▁in", "▁what", "▁image", "▁cat", "▁dog", "▁USER", "▁ASSISTANT", "▁Human", "▁["),
    *("an", "er", "ing", "on", "##", "###", "▁###", "12", "00"),
)
"""Pieces that are one token."""
LETTERS = ["▁", *(chr(code) for code in range(33, 127))]


def llama_tokenizer() -> Any:
    """As Llama's: byte fallback, a space before the first word, `<s>` from the post-processor; of the same class."""
    from transformers import LlamaTokenizerFast

    merges = list(dict.fromkeys((word[:end], word[end]) for word in WORDS for end in range(1, len(word))))
    pieces = [*LETTERS, *dict.fromkeys(left + right for left, right in merges)]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    ids = {name: number for number, name in enumerate(names)}
    backend = Tokenizer(models.BPE(ids, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return LlamaTokenizerFast(tokenizer_object=backend, **tokens)


def bert_tokenizer() -> Any:
    """As BERT's: lower case, pieces of words, `[CLS]` and `[SEP]` around a text; of the same class."""
    import transformers

    library: Any = transformers  # type checkers do not see the class

    words = [word.strip("▁").lower() for word in WORDS if word.strip("▁").isalpha()]
    letters = [letter for letter in LETTERS[1:] if letter == letter.lower()]
    pieces = [*letters, *(f"##{letter}" for letter in letters), *words]
    names = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]))
    backend = Tokenizer(models.WordPiece({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(names[:5])
    ends = [(name, names.index(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return library.BertTokenizerFast(tokenizer_object=backend)
