"""Every adapter with every kind of rows and two families of LLMs: counted right, trained, saved, opened, asked."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_blocks import ADAPTERS, REFUSED
from matrix_support import model_of, recipe_of, samples

from omnivit.contracts import registries
from omnivit.contracts.batch import Batch
from omnivit.data.collate import collate
from omnivit.errors import RecipeError
from omnivit.model.build import preparer_of
from omnivit.model.omni import OmniModel
from omnivit.train import checkpoint
from omnivit.train.freeze import freeze
from omnivit.train.losses import token_log_probs

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
LLMS: dict[str, dict[str, Any]] = {"llama": {"model_type": "llama", **SIZES}, "qwen2": {"model_type": "qwen2", **SIZES}}
KINDS = ("image", "video", "audio", "points")
FITTING = [pair for pair in itertools.product(ADAPTERS, KINDS) if pair not in REFUSED]


def batch_of(model: OmniModel, recipe: Any, generate: bool = False) -> Batch:
    preparer = preparer_of(model, recipe)
    encoded = [preparer(sample, generate=generate) for sample in samples()]
    return collate(encoded, ("media",), preparer.chat.pad_id, pad_left=generate)


@pytest.mark.parametrize("llm", LLMS)
@pytest.mark.parametrize(("adapter", "kind"), FITTING)
def test_an_adapter_is_trained_saved_opened_and_asked(adapter: str, kind: str, llm: str, tmp_path: Path) -> None:
    recipe = recipe_of(ADAPTERS[adapter], kind, LLMS[llm])
    model = model_of(ADAPTERS[adapter], kind, LLMS[llm])
    keys = set(model.state_dict())
    freeze(model, {"adapters.*": 1e-2})
    batch = batch_of(model, recipe)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = [train_step(model, batch, optimizer) for _ in range(3)]
    assert all(torch.isfinite(torch.tensor(losses))) and losses[2] != losses[0]
    assert set(model.state_dict()) == keys

    model.eval().requires_grad_(
        False
    )  # fused kernels of transformers may differ in the last bit where something trains
    trained = {name: p.detach() for name, p in model.named_parameters() if name.startswith("adapters.")}
    path = checkpoint.save(tmp_path, "00-align-step-00000002", trained, {}, {})
    fresh = model_of(ADAPTERS[adapter], kind, LLMS[llm])
    checkpoint.load_weights(fresh, checkpoint.read_tensors(path / checkpoint.WEIGHTS), path)
    with torch.no_grad():
        torch.testing.assert_close(fresh(batch).logits, model(batch).logits, rtol=0, atol=0)
        asked = batch_of(fresh, recipe, generate=True)
        embeds, context = fresh.embed(asked)
        new = fresh.llm.generate(embeds, asked.mask, asked.positions, context, max_new_tokens=3, do_sample=False,
                                 eos_token_id=None)  # fmt: skip
        first = fresh(asked, last_of(asked)).logits.argmax(dim=1)
    assert new.shape == (3, 3) and torch.equal(new[:, 0], first)


@pytest.mark.parametrize(
    ("pair", "reason"), REFUSED.items(), ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_what_does_not_fit_is_refused_with_the_reason(pair: tuple[str, str], reason: str) -> None:
    adapter, kind = pair
    recipe = recipe_of(ADAPTERS[adapter], kind, LLMS["llama"])
    with pytest.raises(RecipeError, match=rf"model\.inputs\.media\.adapter.*{reason}"):
        preparer_of(model_of(ADAPTERS[adapter], kind, LLMS["llama"]), recipe)(samples()[0])


def test_no_adapter_is_left_out() -> None:
    named = {str(block["name"]) for outer in ADAPTERS.values() for block in (outer, *outer.get("steps", ()))}
    ours = {name for name, point in registries.adapters.names().items() if point.value.startswith("omnivit_adapters.")}
    assert ours <= named


def train_step(model: OmniModel, batch: Batch, optimizer: torch.optim.Optimizer) -> float:
    loss = -token_log_probs(model(batch).logits, batch).mean()
    optimizer.zero_grad()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(bool(torch.isfinite(g).all()) for g in gradients)
    optimizer.step()
    return float(loss.detach())


def last_of(batch: Batch) -> torch.Tensor:
    keep = torch.zeros_like(batch.attention_mask)
    keep[:, -1] = True
    return keep
