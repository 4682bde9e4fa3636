"""What tests of the named templates share: conversations, and a tokenizer of Llama's kind that cuts `###` variously.

tests/golden/ends.json has what the original implementations make of these conversations with this tokenizer.
"""

from __future__ import annotations

import json

from small_tokenizers import byte_level
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "Human: What is this? Assistant: It is a cat. How many are there? There are three of them, and a dog. "
    "A chat between a curious human and an artificial intelligence assistant. USER: ASSISTANT: Response: "
    "The assistant gives helpful, detailed, and polite answers to the human's questions. Instruction: Question:"
] * 5
ROUNDS = (
    (("What is this?", "It is a cat."),),
    (("How many are there?", "There are three of them."),),
    (("What is this?", "A dog."), ("And this?", "It is a cat, too.")),
    (("Count them.", "1, 2, 3"),),
    (("Why?", "They are helpful."), ("Who?", "The human."), ("Where?", "There.")),
    (("Is it\nred?", "No.\nIt is a dog."),),
    (("x", "y"),),
    (("What does Ünï 日本 mean?", "日本 is a name 🐈"),),
    (("Write # and ##.", "# and ##"),),
    (("Describe the image in detail.", "A cat and a dog, and three of them are there."),),
    (("Give a list.", "- a cat\n- a dog\n- a human"), ("Shorter.", "- a cat")),
    (("a b c d", "a, b, c and d"),),
    (("How many dogs?", "3"),),
    (("How many cats?", "(3)"),),
    (("Is this a question?", "\"Yes\""),),
    (("Say it again.", "Again: it."), ("Again.", "It.")),
    (("Who gives answers?", "An assistant gives answers to the human's questions."),),
    (("???", "!!!"),),
    (("What is 1 + 1?", "1 + 1 = 2."),),
    (("Is it polite?", "It is polite and helpful."), ("Is it detailed?", "It is."), ("Is it a cat?", "It is not.")),
)  # fmt: skip
"""Twenty conversations: the questions and answers of each."""


def llama_like(*special: str) -> PreTrainedTokenizerFast:
    """Llama's kind: BPE over text with `▁` for spaces, bytes as a fallback, a BOS before every text.

    As in Llama's own vocabulary, `###` is one token after a space and two after a line feed or a word.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    letters = [chr(code) for code in range(33, 127)]
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=260, initial_alphabet=letters))
    learnt = json.loads(trained.to_str())["model"]
    hashes = [("#", "#"), ("▁", "##"), ("▁##", "#")]
    merges = [*hashes, *((left, right) for left, right in learnt["merges"])]
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
    vocabulary += [merged for left, right in hashes if (merged := left + right) not in vocabulary]
    ids = {token: id for id, token in enumerate(vocabulary)}
    backend = Tokenizer(models.BPE(ids, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>", *special])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


_BOX = "<box>({},{}),({},{})</box>"
GROUNDED = tuple(
    ((f"Where is <ref>the {noun}</ref>?", f"<ref>the {noun}</ref>" + _BOX.format(k, k + 1, 9 * k + 2, 40 * k)),)
    if k % 2
    else (
        (f"What is in {_BOX.format(k, 2, 3, 4)}?", f"A {noun}."),
        ("Where else?", "<ref>It</ref>" + _BOX.format(1, k, 200, 999) + " too."),
    )
    for k, noun in enumerate(("cat", "dog", "red car", "human", "list", "answer", "x", "日本", "mat", "boat") * 2)
)  # fmt: skip
"""Twenty conversations with Qwen-VL's tokens: the questions and answers of each."""
QWEN = ("<ref>", "</ref>", "<box>", "</box>")


def qwen_like() -> PreTrainedTokenizerFast:
    """Qwen's kind: BPE over bytes, and its tokens for boxes, which are special."""
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in QWEN], special_tokens=True)
    return tokenizer
