"""`omnivit export --to vllm`: what the distribution omnivit-vllm finds in the folder. vLLM itself: tests/bridges."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapter_blocks import ADAPTERS
from assistant_support import make_run
from matrix_support import recipe_of
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm_run import make_vllm_run

from omnivit.contracts.sample import Sample
from omnivit.errors import CheckpointError, RecipeError
from omnivit.run.export import export
from omnivit.run.export.opened import open_run
from omnivit.run.export.reading import read
from omnivit.run.input_side import InputSide

LLM = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
       "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip


def test_both_halves_and_the_prompts_are_those_of_the_run(tmp_path: Path) -> None:
    folder, media = make_vllm_run(tmp_path)
    opened = open_run(folder, trust=True)
    place = tmp_path / "model"
    files = {file.name for file in export(opened, "vllm", place, {"dtype": "float32"})}
    assert {"config.json", "recipe.yaml", "model.safetensors", "tokenizer.json", "chat_template.jinja"} < files
    assert str(tmp_path) not in "".join(file.read_text() for file in (place / "recipe.yaml", place / "config.json"))
    config, tensors = json.loads((place / "config.json").read_text()), read(place)

    # the LLM's half computes what the run's LLM does
    assistant = opened.assistant
    text = dict(config["text_config"])
    plain = AutoModelForCausalLM.from_config(type(assistant.model.llm.hf.config)(**text)).eval()
    half = {name.removeprefix("language_model."): value for name, value in tensors.items() if "language" in name}
    plain.load_state_dict(half)
    turn = assistant.turn("What is it?", [("audio", media["audio"]), ("points", media["points"])])
    prompt = assistant.preparer(Sample("q", (turn,)), generate=True)
    batch = assistant._collate([prompt])
    with torch.no_grad():
        embeds, _ = assistant.model.embed(batch)
        ours = assistant.model(batch, keep=batch.attention_mask).logits
        assert (plain(inputs_embeds=embeds).logits[0] - ours).abs().max() < 1e-4  # LoRA is merged in float32

    # the other half gives the same tokens of media
    side = InputSide.open(place, config["text_config"]["hidden_size"])
    side.fill({name: value for name, value in tensors.items() if not name.startswith("language_model.")}, place)
    with torch.no_grad():
        features = assistant.model.encode(batch)
        for slot, path in media.items():
            item = side.prepare(slot, path)
            encoded = side.encode(slot, item, torch.device("cpu"))
            assert torch.equal(encoded, features[slot].values[0][features[slot].mask[0]])
            assert side.tokens(slot, item) == len(encoded) == assistant.preparer.slots[slot].tokens(item)
            assert side.tokens(slot, side.prepare(slot, side.example(slot))) > 0
    with pytest.raises(RecipeError, match="reads the LLM, which another program runs"):
        side.model.llm.embedding()

    # the chat template writes the prompt, with one token for each medium
    tokenizer = AutoTokenizer.from_pretrained(place)
    content = [{"type": "audio"}, {"type": "points"}, {"type": "text", "text": "What is it?"}]
    messages = [{"role": "user", "content": content}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    first, second = prompt.spans
    middle = prompt.ids[first.start + first.length : second.start].tolist()
    rest = prompt.ids[second.start + second.length :].tolist()
    slots = config["inputs"]
    assert ids == [*prompt.ids[: first.start].tolist(), slots["audio"], *middle, slots["points"], *rest]
    with pytest.raises(CheckpointError, match="no export for vLLM"):
        InputSide.open(tmp_path / "nothing", 64)


@pytest.mark.parametrize(
    ("adapter", "combine", "message"),
    [
        ("visual_expert", "tokens", r"model\.inputs\.media\.adapter \(chain\) changes layers of the LLM"),
        ("qformer with instruction", "tokens", "reads the text of the turn, which vLLM does not pass on"),
        ("linear", "mean", r"model\.inputs\.media combines the media of a turn"),
    ],
)
def test_what_vllm_would_compute_otherwise_is_refused_by_name(
    adapter: str, combine: str, message: str, tmp_path: Path
) -> None:
    recipe = recipe_of(ADAPTERS[adapter], "image", LLM)
    slot = replace(recipe.model.inputs["media"], combine=combine)
    recipe = replace(recipe, model=replace(recipe.model, inputs={"media": slot}))
    opened = open_run(make_run(recipe, tmp_path / "run"), trust=True)
    with pytest.raises(RecipeError, match=message):
        export(opened, "vllm", tmp_path / "model", {})
    assert not (tmp_path / "model").exists()
