"""What the tests of `qformer` share: its small sizes, checkpoints whose every weight is a sine, and inputs."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import torch
from golden_support import read_golden
from omnivit_adapters.qformer.adapter import QFormerAdapter, QFormerConfig
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
)

from omnivit.contracts.adapter import Instruction
from omnivit.contracts.features import Features

GOLDEN = read_golden("adapters/qformer")
WIDTH, LLM = 10, 12
SIZES = {"queries": 4, "layers": 3, "heads": 2, "hidden": 16, "intermediate": 24}
TEXT = {"instruction_tokenizer": "bytes", "positions": 32, "instruction_limit": 32}


def make(path: object = None, width: int = WIDTH, **options: Any) -> QFormerAdapter:
    torch.manual_seed(0)
    adapter = QFormerAdapter(QFormerConfig(path=None if path is None else str(path), **(SIZES | options)), width, LLM)
    adapter.load()
    return adapter.eval()


def weight(name: str, shape: list[int]) -> Tensor:
    """What the golden numbers were made with: a sine, whose phase the name decides."""
    phase = zlib.crc32(name.encode()) % 1000
    wave = torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.7 + phase).reshape(shape)
    norm = name.endswith(("LayerNorm.weight", "ln_vision.weight"))
    return (1 + 0.1 * wave if norm else 0.3 * wave).float()


def lavis_state(kind: str) -> dict[str, Tensor]:
    """The checkpoint whose keys and shapes are those of the original."""
    return {name: weight(name, shape) for name, shape in GOLDEN[kind]["keys"].items()}


def lavis_file(folder: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"model": state}, folder / "lavis.pth")
    return folder / "lavis.pth"


def inputs(width: int = WIDTH) -> tuple[Features, Instruction]:
    """Three media of 7, 4 and 5 rows with questions of 5, 2 and 4 tokens."""
    rows = torch.sin(torch.arange(3 * 7 * width, dtype=torch.float64) * 1.3).reshape(3, 7, width).float()
    mask = torch.arange(7) < torch.tensor([7, 4, 5])[:, None]
    ids = (torch.arange(15) * 37 % 256).reshape(3, 5)
    return Features(rows, mask), Instruction(ids, torch.arange(5) < torch.tensor([5, 2, 4])[:, None])


def close(found: Tensor | None, wanted: list[float] | Tensor, tolerance: float = 1e-5) -> None:
    assert found is not None
    wanted = wanted if isinstance(wanted, Tensor) else torch.tensor(wanted).reshape(found.shape)
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)


def hugging_face(instructed: bool) -> Any:
    """A small BLIP-2 or InstructBLIP, every weight a sine, rows of width 12 from its vision tower."""
    tower = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "image_size": 8, "patch_size": 4}  # fmt: skip
    middle = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24,
              "vocab_size": 264, "max_position_embeddings": 32, "pad_token_id": 256}  # fmt: skip
    llm = {"model_type": "opt", "hidden_size": LLM, "word_embed_proj_dim": LLM, "ffn_dim": 16, "num_hidden_layers": 1,
           "num_attention_heads": 2, "vocab_size": 264}  # fmt: skip
    config_class: Any = InstructBlipConfig if instructed else Blip2Config
    model_class: Any = InstructBlipForConditionalGeneration if instructed else Blip2ForConditionalGeneration
    config = config_class(vision_config=tower, qformer_config=middle, text_config=llm, num_query_tokens=4)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weight(name, list(parameter.shape)))
    return model


def expected(model: Any, features: Features, instruction: Instruction | None) -> Tensor:
    """What the model's own parts make of the rows."""
    queries = model.query_tokens.expand(len(features.values), -1, -1)
    options = {"query_embeds": queries, "encoder_hidden_states": features.values,
               "encoder_attention_mask": features.mask.long()}  # fmt: skip
    if instruction is not None:
        mask = torch.cat([torch.ones(queries.shape[:2]), instruction.attention_mask], dim=1).long()
        options |= {"input_ids": instruction.input_ids, "attention_mask": mask}
    found: Tensor = model.language_projection(model.qformer(**options).last_hidden_state[:, :4])
    return found
