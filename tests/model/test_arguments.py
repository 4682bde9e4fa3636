"""Names of arguments that OmniViT reads and passes: in every way to generate, and when a library renames them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from llm_support import LATE, NONE, ONE, TWO, Around, batch_of, generated, llm_of, looped, model_of, shift
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from omnivit.errors import LibraryError, RecipeError
from omnivit.model import arguments
from omnivit.model.arguments import Step, accepted, step_of
from omnivit.model.causal import CausalConfig, CausalLM
from omnivit.model.omni import OmniModel

OLD = "past_key_values"
"""The name of the cache before transformers 5.24."""


def changed(family: str = "llama") -> OmniModel:
    model = model_of(llm_of(family), {"image": Around()})  # type: ignore[call-arg]
    shift(model.adapters)
    return model


WAYS: Mapping[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"cache_implementation": "static", "disable_compile": True},
    "none": {"use_cache": False},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_layers_see_the_same_tokens_with_every_cache(family: str, way: str) -> None:
    model = changed(family)
    batch = batch_of(LATE, NONE, TWO, ONE, left=True)
    with torch.no_grad():
        assert generated(model, batch, **WAYS[way]).tolist() == looped(model, batch).tolist()


def test_several_tokens_at_a_step_are_right_or_refused() -> None:
    """transformers 5.17 loses the mask of embeddings when it looks tokens up in the prompt."""
    model, batch = changed(), batch_of(TWO, left=True)
    with torch.no_grad():
        try:
            found = generated(model, batch, prompt_lookup_num_tokens=2)
        except LibraryError as error:
            assert "an attention mask over 0" in str(error)
        else:
            assert found.tolist() == looped(model, batch).tolist()


def test_prompts_of_embeddings_in_chunks_are_refused() -> None:
    with pytest.raises(RecipeError, match="prefill_chunk_size"):
        generated(changed(), batch_of(ONE, left=True), prefill_chunk_size=3)


def test_without_a_cache_an_option_that_needs_one_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"no option 'repetition_penalty' for that; .*Available: do_sample"):
        generated(changed(), batch_of(ONE, left=True), use_cache=False, repetition_penalty=1.2)


@pytest.mark.parametrize("model", [changed, lambda: model_of(llm_of(), {})], ids=["changed layers", "plain"])
def test_a_cache_under_an_unknown_name_stops_generation(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when transformers 5.24 renamed it: every generated token took the place of column 0, without a word."""
    renamed = model()
    call = nn.Module.__call__

    def rename(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        for name in arguments.NAMES["cache"] if module is renamed.llm.hf else ():
            if name in kwargs:
                kwargs["memory"] = kwargs.pop(name)
        return call(module, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(LibraryError, match=r"1 of the batch's 5 .*transformers \d"):
        patch.setattr(nn.Module, "__call__", rename)
        generated(renamed, batch_of(NONE, left=True))
    monkeypatch.setattr(arguments, "NAMES", {**arguments.NAMES, "cache": ("earlier",)})
    with pytest.raises(LibraryError, match=r"no parameter `earlier`, so it cannot see earlier tokens"):
        generated(renamed, batch_of(NONE, left=True))


def test_a_model_that_takes_no_positions_is_refused_unless_it_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    bloom = {"model_type": "bloom", "hidden_size": 16, "n_layer": 1, "n_head": 2}
    assert CausalLM(CausalConfig(config=bloom, tokenizer="bytes")).hf.config.model_type == "bloom"
    monkeypatch.setattr(arguments, "NAMES", {**arguments.NAMES, "position_ids": ("places",)})
    with pytest.raises(LibraryError, match=r"LlamaForCausalLM.forward has no parameter `places`.*bloom.*transformers"):
        llm_of()


@pytest.mark.parametrize("position", [0, 4, 6])
def test_a_wrong_position_of_the_first_new_token_stops_generation(position: int) -> None:
    model = changed()

    def misplace(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        moved = torch.full_like(kwargs["position_ids"], position)
        return args, kwargs | ({"position_ids": moved} if moved.shape[1] == 1 else {})

    model.llm.hf.register_forward_pre_hook(misplace, with_kwargs=True)
    with pytest.raises(LibraryError, match=rf"the first new tokens have the positions \[{position}\].*end at \[4\]"):
        generated(model, batch_of(NONE, left=True))


def test_a_step_is_read_off_any_cache_by_name_and_by_place() -> None:
    hf = llm_of().hf
    rows, ids = torch.zeros(2, 3, 16), torch.tensor([[5, 6], [7, 8]])
    for cache in (DynamicCache(config=hf.config), StaticCache(config=hf.config, max_cache_len=9)):
        assert step_of(hf, (), {"inputs_embeds": rows, OLD: cache}, columns=7) == Step(0, 3, 2)  # the first chunk
        hf(**accepted(hf, inputs_embeds=rows, cache=cache))
        for name in (OLD, "cache"):
            assert step_of(hf, (ids,), {name: cache}, columns=7) == Step(3, 2, 2)
        with pytest.raises(LibraryError, match=r"2 tokens and a \w+Cache of 3, but with an attention mask over 9"):
            step_of(hf, (ids, torch.ones(2, 9)), {OLD: cache}, columns=7)
    assert step_of(hf, (ids,), {}, columns=2) == Step(0, 2, 2)
    with pytest.raises(LibraryError, match="called without `input_ids`; the arguments are labels"):
        step_of(hf, (), {"labels": ids}, columns=2)


def test_rows_that_are_no_beams_of_a_batch_are_refused() -> None:
    model, batch = changed(), batch_of(ONE, TWO, left=True)
    embeds, context = model.embed(batch)
    with (
        model.llm.patching.telling(context),
        pytest.raises(LibraryError, match="was called with 3 samples for a batch of 2"),
    ):
        model.llm.hf(**accepted(model.llm.hf, inputs_embeds=embeds[:1].expand(3, -1, -1)))


class Renamed(nn.Module):
    """A model whose forward takes any name."""

    def forward(self, inputs_embeds: Tensor, places: Tensor, **kwargs: Any) -> None:
        """Nothing."""


def test_a_name_that_a_forward_would_swallow_is_refused() -> None:
    rows = torch.zeros(1, 3, 4)
    assert accepted(Renamed(), inputs_embeds=rows)["inputs_embeds"] is rows
    with pytest.raises(LibraryError, match=r"Renamed.forward has no parameter `position_ids`.* inputs_embeds, places"):
        accepted(Renamed(), inputs_embeds=rows, position_ids=rows)
