"""The weights that `qformer` reads: Hugging Face's layout and that of LAVIS, whole, in shards, and damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from qformer_support import LLM, TEXT, WIDTH, close, expected, hugging_face, inputs, lavis_file, lavis_state, make
from safetensors.torch import load_file, save_file

from omnivit.contracts.adapter import Instruction
from omnivit.contracts.features import Features
from omnivit.errors import RecipeError

PAIRS = {"Qformer.bert.embeddings.LayerNorm.": ("qformer.layernorm.", "qformer.embeddings.layernorm."),
         "Qformer.bert.embeddings.": ("qformer.embeddings.",), "Qformer.bert.": ("qformer.",),
         "llm_proj.": ("language_projection.",), "ln_vision.": ("vision_model.post_layernorm.",)}  # fmt: skip
"""LAVIS's beginnings of keys, and what stands for them in transformers'."""


@pytest.fixture(scope="module", params=[False, True], ids=["blip2", "instructblip"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, dict[str, Any]]:
    """A Hugging Face model, where it is saved, and the options that read it."""
    model = hugging_face(request.param)
    folder = tmp_path_factory.mktemp("hf")
    model.save_pretrained(folder)
    return model, folder, TEXT if request.param else {}


def test_a_hugging_face_checkpoint_gives_its_own_numbers(saved: Any) -> None:
    model, folder, options = saved
    adapter = make(folder, 12, input_norm=False, **options)
    features, instruction = inputs(12)
    wanted = expected(model, features, instruction if options else None)
    close(adapter(features, instruction).values, wanted)
    model.zero_grad()
    adapter(features, instruction).values.square().mean().backward()
    wanted.square().mean().backward()
    theirs = dict(model.named_parameters())
    pairs = {name: p.grad for name, p in adapter.named_parameters()}
    assert len(pairs) > 70
    for name, gradient in pairs.items():
        close(gradient, theirs[name].grad)


def test_with_the_norm_of_the_tower_it_is_all_that_follows_the_tower(saved: Any) -> None:
    model, folder, options = saved
    adapter = make(folder, 12, input_norm=True, input_norm_eps=1e-6, **options)
    pixels = torch.sin(torch.arange(2 * 3 * 64).float()).reshape(2, 3, 8, 8)
    tower = model.vision_model
    with torch.no_grad():
        raw = tower.encoder(tower.embeddings(pixels)).last_hidden_state
        mask, (_, instruction) = torch.ones(raw.shape[:2], dtype=torch.bool), inputs()
        words = Instruction(instruction.input_ids[:2], instruction.attention_mask[:2])
        if options:
            text = {"qformer_input_ids": words.input_ids, "qformer_attention_mask": words.attention_mask.long()}
            wanted = model.get_image_features(pixels, **text).pooler_output
        else:
            wanted = model.get_image_features(pixels).pooler_output
        close(adapter(Features(raw, mask), words).values, wanted)


def test_shards_are_read_where_they_hold_it(saved: Any, tmp_path: Path) -> None:
    model, folder, options = saved
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    strange = set(index.values()) - {s for key, s in index.items() if "language_model" not in key}
    assert len(set(index.values())) > 3 and strange
    for shard in strange:
        (tmp_path / shard).unlink()  # the LLM's alone: not read
    features, instruction = inputs(12)
    sharded, whole = (make(place, 12, input_norm=False, **options) for place in (tmp_path, folder))
    assert torch.equal(sharded(features, instruction).values, whole(features, instruction).values)
    lost = tmp_path / index["query_tokens"]
    lost.unlink()
    with pytest.raises(RecipeError, match=f"has no {lost.name}"):
        make(tmp_path, 12, input_norm=False, **options)


@pytest.mark.parametrize("projection", ["llm_proj", "llama_proj", "opt_proj", "t5_proj"])
def test_the_same_tensors_under_the_names_of_lavis(saved: Any, projection: str, tmp_path: Path) -> None:
    _, folder, options = saved
    state = {to_lavis(key, projection): t for key, t in load_file(folder / "model.safetensors").items()}
    state |= {"Qformer.bert.embeddings.position_ids": torch.arange(32)[None], "itm_head.weight": torch.ones(2, 16),
              "Qformer.cls.predictions.bias": torch.ones(264), "vision_proj.weight": torch.ones(4, 16)}  # fmt: skip
    adapter, other = (
        make(lavis_file(tmp_path, state), 12, input_norm=True, **options),
        make(folder, 12, input_norm=True, **options),
    )
    assert adapter.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in adapter.state_dict().items())


def to_lavis(key: str, projection: str) -> str:
    key = key.replace("attention.attention.", "attention.self.")
    for theirs, ours in PAIRS.items():
        for start in ours:
            if key.startswith(start):
                return key.replace(start, theirs, 1).replace("llm_proj", projection)
    return key


def test_weights_of_the_first_stage_teach_words_too(tmp_path: Path) -> None:
    """Blip2ForImageTextRetrieval keeps the words' embeddings outside the Q-Former."""
    state = load_file(save(hugging_face(True), tmp_path) / "model.safetensors")
    moved = {key: t for key, t in state.items() if key.startswith(("qformer", "query"))}
    moved = {key.replace("qformer.embeddings.layernorm", "qformer.layernorm"): t for key, t in moved.items()}
    moved = {key.replace("qformer.embeddings", "embeddings"): t for key, t in moved.items()}
    save_file(moved, tmp_path / "itm.safetensors")
    adapter = make(tmp_path / "itm.safetensors", 12, projection=False, **TEXT)
    other = make(tmp_path, 12, projection=False, input_norm=False, **TEXT)
    features, instruction = inputs(12)
    assert torch.equal(adapter(features, instruction).values, other(features, instruction).values)
    assert adapter.width == 16 and make(tmp_path / "itm.safetensors", 12, projection=False)(features).values.shape == (
        3, 4, 16)  # fmt: skip


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def test_a_repository_of_the_hub_is_read_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "models--some--blip2"
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("0" * 40)
    save_file(lavis_state("plain") | {"ln_vision.weight": torch.ones(WIDTH)}, snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert torch.equal(make("some/blip2", input_norm=False).query_tokens, lavis_state("plain")["query_tokens"])
    with pytest.raises(RecipeError, match=r"'some/other' is not a file or folder here, the hub .* cannot be reached"):
        make("some/other")


LAYER = "Qformer.bert.encoder.layer.1.attention.self.key.weight"


@pytest.mark.parametrize(
    ("kind", "options", "change", "message"),
    [
        (
            "plain",
            {},
            {LAYER: None},
            r"lavis\.pth.*Missing: qformer\.encoder\.layer\.1\.attention\.attention\.key\.weigh",
        ),
        ("plain", {}, {LAYER: torch.ones(3)}, r"attention\.key\.weight \[3\] for \[16, 16\]"),
        ("plain", {}, {"Qformer.bert.adapter.weight": torch.ones(1)}, r"Unknown: Qformer\.bert\.adapter\.weight"),
        ("plain", {"layers": 2}, {}, r"Unknown: qformer\.encoder\.layer\.2\."),
        ("plain", {"layers": 4}, {}, r"Missing: qformer\.encoder\.layer\.3\."),
        ("plain", {"queries": 8}, {}, r"query_tokens \[1, 4, 16\] for \[1, 8, 16\]"),
        ("plain", {}, {"llm_proj.weight": None, "llm_proj.bias": None}, r"no projection to an LLM.*projection: false"),
        (
            "plain",
            {},
            {"opt_proj.bias": torch.ones(LLM)},
            r"'(llm|opt)_proj.bias' and '\w+_proj.bias' are the same weight",
        ),
        ("plain", TEXT, {}, "no text branch.*Remove `instruction_tokenizer`"),
        ("instructed", TEXT | {"vocabulary": 300}, {}, r"word_embeddings\.weight \[264, 16\] for \[300, 16\]"),
        ("plain", {}, {"ln_vision.weight": None, "ln_vision.bias": None}, "no LayerNorm.*Remove `input_norm`"),
        ("plain", {"input_norm": None}, {}, "Set `input_norm: true`"),
        ("plain", {}, {"query_tokens": None}, r"no Q-Former; its keys begin with Qformer, llm_proj, ln_vision\."),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    kind: str, options: Any, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    state = {key: value for key, value in (lavis_state(kind) | change).items() if value is not None}
    with pytest.raises(RecipeError, match=message):
        make(lavis_file(tmp_path, state), **({"input_norm": True} | options))


def test_places_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has no model\.safetensors\. Available: a folder"):
        make(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "a.safetensors"}}')
    with pytest.raises(RecipeError, match="names no shard with a Q-Former"):
        make(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(RecipeError, match="is not an index of shards"):
        make(tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RecipeError, match=r"bad\.safetensors: cannot be read"):
        make(tmp_path / "bad.safetensors")
