"""What the contenders of `train.py` train on: pictures, conversations, and one small LLaVA checkpoint.

Everything is random but of a plausible shape. The lengths of the conversations are skewed as those of LLaVA's
instruction data are: most answers are short, a few are long, and one sample in fifteen has no picture.
"""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RECORDS, CHECKPOINT, IMPORTED, PREPARED = "records.jsonl", "llava", "imported", "preparer.pickle"
PICTURES = 24
TEXT_ONLY = 1 / 15
"""LLaVA-1.5's mixture has 40 thousand text-only conversations in 665 thousand."""
WORDS_MOST = 280
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: ASSISTANT:"
)
"""What the template `vicuna_v1` adds to every conversation."""


@dataclass(frozen=True)
class Dims:
    """Sizes of a LLaVA model: a CLIP vision tower, a projector of two layers, and a Llama with tied embeddings."""

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    image: int
    """Side of a picture in pixels; a patch has 14, so a picture takes (image / 14)^2 rows."""

    @property
    def rows(self) -> int:
        return (self.image // 14) ** 2


DIMS = {
    "small": Dims(256, 6, 4, 2, 704, 32064, 192, 4, 3, 140),
    "medium": Dims(256, 12, 4, 2, 704, 32064, 192, 6, 3, 140),
    "smollm2-135m": Dims(576, 30, 9, 3, 1536, 49216, 384, 6, 6, 140),
    "tiny": Dims(32, 2, 2, 1, 64, 4096, 24, 2, 2, 28),
}
"""`small`, `medium`: the vocabulary of LLaVA-1.5 on LLMs that two cores can train; the output head is 65% and 48% of
their parameters. `smollm2-135m`: an LLM as it is (21%). `tiny`: only to see that everything runs."""


def write_workload(folder: Path, dims: Dims, samples: int, seed: int) -> dict[str, Any]:
    """Write pictures, records, the checkpoint and its import into an empty folder.

    Returns:
        Facts to print: parameter counts and mean lengths.
    """
    from omnivit.data.sources import open_mixture
    from omnivit.model.build import load_model, preparer_of
    from omnivit.recipe import DataSource, load
    from omnivit.run.importing.llava import import_llava

    dice = random.Random(seed)
    _write_pictures(folder / "pictures", seed)
    records = list(_records(samples, dice))
    (folder / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    system = [VICUNA] * 9  # as often as a merge needs, so that the tokenizer spells it in words as real ones do
    texts = [turn["value"] for record in records for turn in record["conversations"]] + system
    parameters = _save_checkpoint(folder / CHECKPOINT, dims, texts, seed)
    import_llava(folder / CHECKPOINT, folder / IMPORTED, template="vicuna_v1")
    recipe = load(folder / IMPORTED / "recipe.yaml")
    preparer = preparer_of(load_model(recipe), recipe)
    (folder / PREPARED).write_bytes(pickle.dumps(preparer))
    mixture = open_mixture([DataSource(RECORDS, "llava")], folder)
    encoded = [preparer(mixture[index]) for index in range(len(mixture))]
    lengths = sorted(len(sample.ids) for sample in encoded)
    supervised = sum(int((sample.labels >= 0).sum()) for sample in encoded)
    tokens = {"mean": sum(lengths) / samples, "median": lengths[samples // 2], "longest": lengths[-1]}
    import torch
    import transformers

    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
    }
    return {"parameters": parameters, "tokens": tokens, "supervised": supervised / sum(lengths), **versions}


def _write_pictures(folder: Path, seed: int) -> None:
    """PNG files of 200 to 400 pixels: smooth colours with some noise, so that they compress as drawings do."""
    from PIL import Image

    folder.mkdir(parents=True)
    noise = np.random.default_rng(seed)
    for number in range(PICTURES):
        height, width = noise.integers(200, 400, size=2)
        y, x = np.mgrid[:height, :width]
        waves = [np.sin(y * a + x * b + c) for a, b, c in noise.uniform(0.005, 0.05, size=(3, 3))]
        grain = noise.normal(0.0, 4.0, size=(height, width, 1))
        values = 128 + 100 * np.stack(waves, axis=-1) + grain
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")


def _records(samples: int, dice: random.Random) -> Iterator[dict[str, Any]]:
    """LLaVA records: 1 to 3 rounds; words of a question about 12, of an answer lognormal (median 14, mean 27)."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    lexicon = ["".join(dice.choices(syllables, k=dice.randint(1, 3))) for _ in range(3000)]
    weights = [1 / (rank + 3) for rank in range(len(lexicon))]

    def text(median: float, spread: float) -> str:
        count = round(dice.lognormvariate(math.log(median), spread))
        return " ".join(dice.choices(lexicon, weights, k=min(max(1, count), WORDS_MOST)))

    for number in range(samples):
        turns: list[dict[str, str]] = []
        for _ in range(dice.choices((1, 2, 3), (6, 3, 1))[0]):
            turns += [{"from": "human", "value": text(12, 0.4)}, {"from": "gpt", "value": text(14, 1.15)}]
        record: dict[str, Any] = {"id": str(number), "conversations": turns}
        if dice.random() > TEXT_ONLY:
            record["image"] = f"pictures/{number % PICTURES}.png"
            turns[0]["value"] = "<image>\n" + turns[0]["value"]
        yield record


def _save_checkpoint(path: Path, dims: Dims, texts: list[str], seed: int) -> dict[str, int]:
    """A random `LlavaForConditionalGeneration` with its processor, as transformers saves it."""
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = _tokenizer(texts, min(4096, dims.vocabulary - 64))
    vision = CLIPVisionConfig(
        hidden_size=dims.vision_hidden, intermediate_size=4 * dims.vision_hidden, num_hidden_layers=dims.vision_layers,
        num_attention_heads=dims.vision_heads, image_size=dims.image, patch_size=14,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=dims.vocabulary, hidden_size=dims.hidden, intermediate_size=dims.intermediate,
        num_hidden_layers=dims.layers, num_attention_heads=dims.heads, num_key_value_heads=dims.key_value_heads,
        max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image, tie_word_embeddings=True)
    size = {"height": dims.image, "width": dims.image}
    images = CLIPImageProcessor(size={"shortest_edge": dims.image}, crop_size=size)
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.save_pretrained(path)
    make_processor: Any = LlavaProcessor
    make_processor(images, tokenizer, patch_size=14, vision_feature_select_strategy="default",
                   num_additional_image_tokens=1).save_pretrained(path)  # fmt: skip
    parts = {"vision tower": model.model.vision_tower, "projector": model.model.multi_modal_projector}
    parts |= {"LLM": model.model.language_model, "of it head": model.lm_head}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def _tokenizer(texts: list[str], size: int) -> Any:
    """Byte-level BPE; the embeddings beyond its tokens are never looked up, but take part in every softmax."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made: Any = PreTrainedTokenizerFast
    fast = made(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", padding_side="right")
    fast.add_tokens([AddedToken(text, special=True, normalized=False) for text in ("<image>", "<pad>")], True)
    fast.pad_token = "<pad>"
    return fast
