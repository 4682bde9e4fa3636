"""Tiny LLaVA checkpoints as transformers writes them: CLIP with Llama (LLaVA-1.5), SigLIP with Qwen2 (Interleave).

Everything is real but the size: the processor, the tokenizer's kind, the chat template of the original checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

TEXT = ["USER: Which colour is the picture? ASSISTANT: It is red and green, the colour of a sky."] * 3
VICUNA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% if message['role'] != 'assistant' %}{{ content['text'] + ' '}}"
    "{% else %}{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Llama's kind: BPE over text with `▁` for spaces, bytes as a fallback, a BOS before every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"]
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")  # merges stay within words,
    bytes_first = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=330, special_tokens=bytes_first, show_progress=False)
    )
    tokenizer.pre_tokenizer = None  # and Llama's own has none
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", padding_side="left"
    )
    fast.add_tokens([AddedToken(text, special=True, normalized=False) for text in ("<image>", "<pad>")], True)
    fast.pad_token = "<pad>"
    return fast


def byte_level() -> PreTrainedTokenizerFast:
    """Qwen's kind: BPE over bytes, no BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left")
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
    fast.add_tokens([AddedToken(text, special=True, normalized=False) for text in special], True)
    fast.pad_token, fast.eos_token = "<|endoftext|>", "<|im_end|>"
    return fast


def vicuna_parts() -> tuple[LlavaConfig, LlavaProcessor]:
    """LLaVA-1.5 in small: 28 x 28 pixels, 4 patches and a class token that is dropped."""
    tokenizer = sentencepiece_like()
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer) + 6,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>")
    )
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )
    return config, processor


def interleave_parts() -> tuple[LlavaConfig, LlavaProcessor]:
    """LLaVA-Interleave in small: no class token, last layer, tied embeddings, and a projector without bias."""
    tokenizer = byte_level()
    vision = SiglipVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        multimodal_projector_bias=False,
        projector_hidden_act="gelu_pytorch_tanh",
        tie_word_embeddings=True,
    )
    images = SiglipImageProcessor(size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images, tokenizer, patch_size=16, vision_feature_select_strategy="full", chat_template=CHATML
    )
    return config, processor


PARTS = {"vicuna": vicuna_parts, "interleave": interleave_parts}


def save_checkpoint(kind: str, path: Path) -> tuple[Any, Any]:
    """Write a checkpoint in several shards, and return its model (eval) and processor.

    The weights are large for their kind: with the usual tiny ones hardly any logit would notice the picture.
    """
    config, processor = PARTS[kind]()
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.15) if parameter.ndim > 1 else parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(path, max_shard_size="60KB")
    processor.save_pretrained(path)
    return model, processor


def save_pictures(folder: Path) -> list[str]:
    """Two PNG files of unequal size with smooth colours."""
    paths = []
    for name, size in (("wide", (50, 34)), ("tall", (31, 44))):
        red = Image.linear_gradient("L").resize(size)
        green = Image.radial_gradient("L").resize(size)
        blue = red.rotate(180) if name == "wide" else green.rotate(90)
        Image.merge("RGB", (red, green, blue)).save(folder / f"{name}.png")
        paths.append(str(folder / f"{name}.png"))
    return paths
