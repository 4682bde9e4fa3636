"""The LLM `causal`: it computes what transformers computes, on fewer positions."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from omnivit.contracts.options import merge_options
from omnivit.errors import PluginError, RecipeError
from omnivit.model.causal import CausalConfig, CausalLM
from omnivit.model.lora import Lora
from omnivit.model.tokens import byte_tokenizer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen3": {**SIZES, "head_dim": 8},
    "gemma2": {**SIZES, "head_dim": 8, "final_logit_softcapping": 0.05, "sliding_window": 4},
    "phi3": {**SIZES, "pad_token_id": 0},
    "mistral": {**SIZES, "sliding_window": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
}
LLAMA = {"model_type": "llama", **SIZES}


def random_lm(**options: Any) -> CausalLM:
    torch.manual_seed(0)
    config = options.pop("config", LLAMA)
    return CausalLM(CausalConfig(config=config, tokenizer="bytes", **options)).eval()


@pytest.fixture(scope="module", params=KINDS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model of one architecture and the byte tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(1)
    config = AutoConfig.for_model(request.param, **{"vocab_size": 264, "eos_token_id": 258, **KINDS[request.param]})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def loaded(folder: Path, **options: Any) -> CausalLM:
    model = CausalLM(CausalConfig(path=str(folder), **options))
    model.load()
    return model.eval()


def reference(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def batch(lengths: list[int], left: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask and positions [B, T]; padding has id 0 and position 0."""
    size = max(lengths)
    ids = torch.randint(1, 250, (len(lengths), size), generator=torch.Generator().manual_seed(2))
    place = torch.arange(size).expand(len(lengths), -1)
    start = torch.tensor([size - n if left else 0 for n in lengths])[:, None]
    mask = (place >= start) & (place < start + torch.tensor(lengths)[:, None])
    return ids * mask, mask, (place - start) * mask


@torch.no_grad()
def test_kept_logits_are_the_full_logits_there(saved: Path) -> None:
    ids, mask, positions = batch([9, 5])
    keep = torch.zeros_like(mask)
    keep[0, [1, 2, 8]] = keep[1, 4] = True
    model = loaded(saved)
    output = model(model.embed(ids), mask, positions, keep, states=True)
    full = reference(saved)(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
    torch.testing.assert_close(output.logits, full.logits[keep], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.states[mask], full.hidden_states[-1][mask], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_on_either_side_changes_nothing(saved: Path) -> None:
    model = loaded(saved)
    alone_ids, alone_mask, alone_positions = batch([5])
    alone = model(model.embed(alone_ids), alone_mask, alone_positions, alone_mask).logits
    for left in (False, True):
        ids, mask, positions = batch([9, 5], left)
        ids[1][mask[1]] = alone_ids[0]
        keep = mask.clone()
        keep[0] = False
        padded = model(model.embed(ids), mask, positions, keep).logits
        torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-4)


def test_generation_is_that_of_transformers(saved: Path) -> None:
    ids, mask, positions = batch([9, 5], left=True)
    model, plain = loaded(saved), reference(saved)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 256}
    ours = model.generate(model.embed(ids), mask, positions, **options)
    theirs = plain.generate(input_ids=ids, attention_mask=mask.long(), **options)
    assert torch.equal(ours, theirs[:, ids.shape[1] :])


@torch.no_grad()
def test_generation_goes_on_from_the_last_position() -> None:
    """Where rows of a medium share a position, the answer's positions follow the last one, not the number of rows."""
    model = random_lm(config=LLAMA).eval()
    model.hf.model.embed_tokens.weight.mul_(20)  # or its answers would hardly depend on what stands where
    ids, mask, _ = batch([9, 6], left=True)
    positions = torch.tensor([[0, 1, 2, 2, 2, 2, 3, 4, 5], [0, 0, 0, 0, 1, 1, 1, 2, 3]])
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    generated = model.generate(model.embed(ids), mask, positions, **options)
    for step in range(5):
        last = torch.zeros_like(mask)
        last[:, -1] = True
        new = model(model.embed(ids), mask, positions, last).logits.argmax(dim=1, keepdim=True)
        assert torch.equal(new[:, 0], generated[:, step])
        ids, mask = torch.cat([ids, new], dim=1), torch.cat([mask, torch.ones_like(new, dtype=torch.bool)], dim=1)
        positions = torch.cat([positions, positions[:, -1:] + 1], dim=1)


def test_structure_alone_has_no_weights_and_loading_brings_them(saved: Path) -> None:
    model = CausalLM(CausalConfig(path=str(saved)))
    assert all(parameter.is_meta for parameter in model.parameters())
    names = [name for name, _ in model.named_parameters()]
    assert model.width == 32
    model.load()
    assert [name for name, _ in model.named_parameters()] == names
    theirs = reference(saved).state_dict()
    assert all(torch.equal(value, theirs[name.removeprefix("hf.")]) for name, value in model.state_dict().items())
    assert len(model.tokenizer()) == 264


@torch.no_grad()
def test_packed_samples_do_not_see_each_other() -> None:
    model = random_lm()
    ids = batch([9])[0]
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    packed = model(model.embed(ids), mask, positions, mask).logits
    alone = model(model.embed(ids[:, 4:]), mask[:, 4:], positions[:, 4:], mask[:, 4:]).logits
    torch.testing.assert_close(packed[4:], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_rows_that_share_a_position_see_each_other() -> None:
    model = random_lm()
    ids = batch([6])[0]
    mask = torch.ones_like(ids, dtype=torch.bool)
    positions = torch.tensor([[0, 1, 1, 1, 2, 3]])
    ours = model(model.embed(ids), mask, positions, mask).logits
    causal = torch.ones(6, 6).tril().bool()[None, None]
    theirs = model.hf(input_ids=ids, position_ids=positions, attention_mask=causal).logits[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_nothing_kept_gives_no_logits() -> None:
    model = random_lm()
    ids, mask, positions = batch([4])
    assert model(model.embed(ids), mask, positions, torch.zeros_like(mask)).logits.shape == (0, 264)


def gradients(model: CausalLM) -> dict[str, torch.Tensor]:
    ids, mask, positions = batch([9, 5])
    model.zero_grad()
    logits = model(model.embed(ids), mask, positions, mask).logits
    logits.square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, checkpointed = random_lm().train(), random_lm(gradient_checkpointing=True).train()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        expected = gradients(plain)
        before, kept[:] = sum(kept), []
        found = gradients(checkpointed)
    assert sum(kept) < before
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


@pytest.mark.parametrize("dora", [False, True])
def test_lora_starts_as_the_plain_model(dora: bool) -> None:
    ids, mask, positions = batch([9, 5])
    plain, tuned = random_lm(), random_lm(lora=Lora(r=4, targets=["q_proj", "v_proj"], dora=dora))
    tuned.add_peft()
    with torch.no_grad():
        expected = plain(plain.embed(ids), mask, positions, mask).logits
        found = tuned(tuned.embed(ids), mask, positions, mask).logits
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_lora_names_and_shapes() -> None:
    model = random_lm(lora=Lora(r=4, targets=["q_proj", "v_proj"]))
    model.add_peft()
    added = {name: tuple(p.shape) for name, p in model.named_parameters() if "lora_" in name}
    assert len(added) == 8
    assert added["hf.model.layers.0.self_attn.q_proj.lora_A.default.weight"] == (4, 32)
    assert added["hf.model.layers.1.self_attn.v_proj.lora_B.default.weight"] == (16, 4)


def test_all_linear_leaves_out_the_head() -> None:
    model = random_lm(lora=Lora(r=2))
    model.add_peft()
    added = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    assert len(added) == 2 * 7
    assert not any("lm_head" in name for name in added)


def test_lora_is_float32_and_learns_on_a_bfloat16_model() -> None:
    model = random_lm(dtype="bfloat16", lora=Lora(r=2, targets="o_proj")).train()
    model.add_peft()
    lora = [p for name, p in model.named_parameters() if "lora_" in name]
    assert {p.dtype for p in lora} == {torch.float32}
    assert model.embed(torch.tensor([[1]])).dtype == torch.bfloat16
    found = gradients(model)
    assert found["hf.model.layers.0.self_attn.o_proj.lora_B.default.weight"].abs().sum() > 0


def test_lora_target_that_matches_nothing() -> None:
    model = random_lm(lora=Lora(targets=["q_proj", "v_prj"]))
    with pytest.raises(RecipeError, match=r"'v_prj' is not a linear layer.*did you mean 'v_proj'.*k_proj"):
        model.add_peft()


@pytest.mark.parametrize(("module", "extra"), [("peft", "lora"), ("bitsandbytes", "qlora")])
def test_missing_package_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    random_lm().hf.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PluginError, match=rf"{module} is needed .* pip install 'omnivit\[{extra}\]'"):
        loaded(tmp_path, lora=Lora(), quantize="nf4" if module == "bitsandbytes" else None).add_peft()


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_quantized_weights_under_lora(tmp_path: Path, bits: Literal["nf4", "int8"]) -> None:
    plain = random_lm(config={**LLAMA, "hidden_size": 64})
    plain.hf.save_pretrained(tmp_path)
    model = loaded(tmp_path, quantize=bits, tokenizer="bytes", lora=Lora(r=2, targets=["q_proj"]))
    model.add_peft()
    ids, mask, positions = batch([9])
    with torch.no_grad():
        expected = plain(plain.embed(ids), mask, positions, mask).logits
        found = model(model.embed(ids), mask, positions, mask).logits
    assert 0 < (found - expected).abs().max() < 0.2 * expected.abs().max()
    assert gradients(model)["hf.model.layers.0.self_attn.q_proj.lora_B.default.weight"].abs().sum() > 0


def test_builds_with_lora_on_meta() -> None:
    with torch.device("meta"):
        model = random_lm(lora=Lora(targets=["q_proj"]))
        model.add_peft()
    assert all(parameter.is_meta for parameter in model.parameters())


def test_dtype_of_the_checkpoint(tmp_path: Path) -> None:
    random_lm(dtype="bfloat16").hf.save_pretrained(tmp_path)
    assert loaded(tmp_path, dtype="auto").embed(torch.tensor([[1]])).dtype == torch.bfloat16
    assert loaded(tmp_path).embed(torch.tensor([[1]])).dtype == torch.float32


def test_vocabulary_follows_the_byte_tokenizer() -> None:
    model = random_lm()
    tokenizer = model.tokenizer()
    assert model.hf.get_input_embeddings().num_embeddings == len(tokenizer) == 264
    text = "h\u00e9 \u6f22\n\0<"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids(["<|pad|>", "<|im_start|>", "<|im_end|>"]) == [256, 257, 258]
    assert model.context == 64


def test_tokenizer_larger_than_the_model() -> None:
    with pytest.raises(RecipeError, match="264 tokens, but the model has only 100 embeddings"):
        random_lm(config={**LLAMA, "vocab_size": 100}).tokenizer()


def test_checkpoint_that_lacks_weights(tmp_path: Path) -> None:
    hf = random_lm().hf
    state = {name: value for name, value in hf.state_dict().items() if "layers.1.mlp" not in name}
    hf.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(RecipeError, match=r"lacks 3 weights of LlamaForCausalLM: .*layers\.1\.mlp"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either `path`"),
        ({"path": "a", "config": LLAMA, "tokenizer": "bytes"}, "either `path`"),
        ({"config": {"hidden_size": 4}, "tokenizer": "bytes"}, "lacks `model_type`"),
        ({"config": LLAMA}, "needs a `tokenizer`"),
        ({"path": "a", "dtype": "float8"}, r"model\.llm\.dtype: 'float8' is not allowed"),
        ({"path": "a", "lora": {"r": 0}}, r"model\.llm\.lora: r \(0\)"),
        ({"path": "a", "lora": {"targets": []}}, "`targets` is empty"),
        ({"config": LLAMA, "tokenizer": "bytes", "quantize": "nf4"}, "set `path`"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        merge_options(CausalConfig, options, "model.llm")


def test_unknown_settings_of_a_config() -> None:
    with pytest.raises(RecipeError, match=r"hiden_size: llama has no such setting; did you mean 'hidden_size'"):
        random_lm(config={**LLAMA, "hiden_size": 8})
    with pytest.raises(RecipeError, match="lama"):
        random_lm(config={"model_type": "lama"})
    with pytest.raises(RecipeError, match="clip"):
        random_lm(config={"model_type": "clip_vision_model"})


def test_path_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the model config cannot be read"):
        CausalLM(CausalConfig(path=str(tmp_path)))
    with pytest.raises(RecipeError, match="no such file or folder"):
        CausalLM(CausalConfig(path="./nowhere"))


def test_attention_implementation() -> None:
    assert random_lm(attention="eager").hf.config._attn_implementation == "eager"
    with pytest.raises(RecipeError, match="sdap"):
        random_lm(attention="sdap")
