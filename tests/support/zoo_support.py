"""The recipes of the zoo on small models and made-up data: what each needs, and what a run of it leaves behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from omnivit.media import synthetic
from omnivit.recipe import DataSource, Recipe, load
from omnivit.testing.hub import PUBLISHED, write_hub

FOLDER = Path(__file__).parents[2] / "recipes" / "zoo"
SYSTEMS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "systems.yaml").read_text(encoding="utf-8"))["systems"]
WITH_RECIPE = [system for system in SYSTEMS if "recipe" in system]
ALL_RECIPES = [
    one
    for system in WITH_RECIPE
    for one in (system, *(system | {"then": []} | then for then in system.get("then", [])))
]
"""Each with what its recipes have in common; `then`: the recipes that continue the first."""
RECORDS = 4
SMALL = [
    "stages.*.steps=2",
    "stages.*.batch_size=2",
    "stages.*.accumulate=1",
    "data.workers=0",
    "checkpoint_every=1",
    "keep={last: 20}",
    "model.llm.dtype=float32",
    "trainer.precision=32-true",
    "trainer={accelerator: cpu, devices: 1, loggers: [csv], progress: false}",
]
"""What is changed in every recipe: amounts, and what only a GPU has."""


@dataclass(frozen=True)
class Prepared:
    """A recipe of the zoo that is ready to run here."""

    system: Mapping[str, Any]
    recipe: Recipe
    root: Path


def _guanaco(hub: Path) -> None:
    """A LoRA as peft saves it, for the small LLaMA-7B."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    write_hub(hub, ["huggyllama/llama-7b"])
    torch.manual_seed(0)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = LlamaForCausalLM.from_pretrained(hub / "huggyllama/llama-7b")
    get_peft_model(model, LoraConfig(r=64, lora_alpha=16, target_modules=targets)).save_pretrained(
        hub / "timdettmers/guanaco-7b"
    )


def prepare(system: Mapping[str, Any], hub: Path, root: Path, before: Path | None = None) -> Prepared:
    """Write the small models and the data that the unchanged recipe names, and load it.

    Args:
        system: of systems.yaml.
        hub: the folder that stands for the hub.
        root: for the data.
        before: the run that the recipe continues.
    """
    path = FOLDER / f"{system['recipe']}.yaml"
    root.mkdir(parents=True)
    start = [] if before is None else [f"init_from.0.run={before}"]
    recipe = load(path, [*SMALL, *system.get("small", []), f"data.root={root}", *start])
    names = {*paths_of(recipe.model), *paths_of(recipe.init_from)}
    if "timdettmers/guanaco-7b" in names and not (hub / "timdettmers/guanaco-7b").exists():
        _guanaco(hub)
    write_hub(hub, sorted(names & set(PUBLISHED)))
    for name in names & set(FILES):
        if not (hub / name).exists():
            (hub / name).parent.mkdir(parents=True, exist_ok=True)
            torch.save(FILES[name](), hub / name)
    for stage in recipe.stages:
        for source in stage.data:
            write_source(source, root, list(recipe.model.inputs))
    return Prepared(system, recipe, root)


def paths_of(block: Any) -> list[str]:
    """Every `path` and tokenizer of a model, at any depth."""
    if isinstance(block, str):
        return [block]
    values = block.values() if isinstance(block, dict) else block if isinstance(block, list) else []
    fields = vars(block).values() if hasattr(block, "__dataclass_fields__") else values
    return [name for value in fields for name in paths_of(value)]


def write_source(source: DataSource, root: Path, slots: list[str]) -> None:
    """A file of records in the form that the source's reader reads, with their media."""
    file, folder = root / source.path, root / (source.media_root or "")
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if source.reader == "tar":
        _shard(file)
        return
    records = [WRITERS[source.reader](source, folder, slots, number) for number in range(RECORDS)]
    lines, key = file.suffix == ".jsonl", source.options.get("records")
    content: Any = {key: records} if key else records
    file.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(content), encoding="utf-8")


def _llava(source: DataSource, folder: Path, slots: list[str], number: int) -> dict[str, Any]:
    paths = source.options.get("slots", {})
    slot = next(iter(paths), None) or slots[0]
    default = "<point>" if slot == "points" else f"<{slot}>"
    named = source.options.get("tag_names", {}).get(slot, default)
    tag = "" if source.options.get("tags") == "first" else f"{named}\n"
    if slot == "video" and source.path in OF_IMAGES and "image" in slots:
        slot, tag = "image", "<image>\n"
    turns = [("human", f"{tag}What is it?"), ("gpt", f"It is a thing, number {number}.")]
    record: dict[str, Any] = {"id": str(number)}
    record["conversations"] = [{"from": speaker, "value": text} for speaker, text in turns]
    if slot in paths:
        key = paths[slot].partition("{")[2].partition("}")[0]
        record[key] = f"{number}{'' if '.' in paths[slot] else SUFFIX[slot]}"
        medium(slot, folder / paths[slot].replace(f"{{{key}}}", record[key]))
        return record
    for key in _keys(source.options):
        record[key] = "detection"
    record[slot] = medium(slot, folder / f"{number}{SUFFIX[slot]}")
    return record


def _keys(options: Mapping[str, Any]) -> list[str]:
    """The keys of a record that texts of the options name, those of media apart."""
    return [name for text in options.values() if isinstance(text, str) for name in re.findall(r"{(\w+)}", text)]


def _messages(source: DataSource, folder: Path, slots: list[str], number: int) -> dict[str, Any]:
    if "text" in source.path or "baize" in source.path:
        turns = [
            {"role": "user", "content": "What floats?"},
            {"role": "assistant", "content": f"Wood, {number} times."},
        ]
        return {"id": str(number), "messages": turns}
    part = {"type": slots[0], slots[0]: medium(slots[0], folder / f"{number}{SUFFIX[slots[0]]}")}
    question = [part, {"type": "text", "text": "What is it?"}]
    answer: list[dict[str, Any]] = [{"type": "text", "text": f"It is a thing, number {number}."}]
    if source.path in WITH_BOXES:  # well inside of what is left of an image of 56 x 40 pixels that is cropped
        answer += [{"type": "boxes", "boxes": [[14, 6, 30, 20 + number]], "of": 0, "unit": "pixel"}]
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": str(number), "messages": turns}


WITH_BOXES = ("refcoco.jsonl", "mgvlid.jsonl")
"""Files whose answers have boxes."""


OF_IMAGES = ("cc3m.json", "llava_instruct_150k.json")
"""Files of images, where a recipe has videos too."""
FIELD = re.compile(r"{(\w+)(\|?)[^}]*}")
QUESTION = {"qa": ("{question}", "{answer}"), "alpaca": ("{instruction}\n{input|}", "{output}")}
"""Reader -> its defaults for question and answer."""


def _question(source: DataSource, folder: Path, slots: list[str], number: int) -> dict[str, Any]:
    """A record of `qa` or `alpaca` with the keys that the options name."""
    del slots
    options = source.options
    question, answer = QUESTION[source.reader]
    texts = [options.get("question", question), options.get("answer", answer)]
    texts = texts[1:] if options.get("prompt", "vqa") != "vqa" else texts
    record: dict[str, Any] = {name: f"{name} {number}" for text in texts for name, _ in FIELD.findall(text)}
    for template in options.get("choices", []):
        record |= {name: ["a boat", "a tree"] for name, _ in FIELD.findall(template)}
        record |= {name: 1 for name, _ in FIELD.findall(options["label"])}
    if "answers" in options:
        record["answer"] = ["a boat", "a boat", "a ship"]
    for slot, template in options.get("slots", {}).items():
        path = FIELD.sub(str(number), template)
        suffix = "" if "." in template else SUFFIX[slot]
        record |= {name: f"{number}{suffix}" for name, _ in FIELD.findall(template)}
        medium(slot, folder / f"{path}{suffix}")
    return record


def _dialogue(source: DataSource, folder: Path, slots: list[str], number: int) -> dict[str, Any]:
    """As SparklesDialogue: all turns so far are text, the images are a list."""
    del source
    names = [f"{number}{letter}" for letter in "ab"]
    for name in names:
        medium(slots[0], folder / f"{name}.jpg")
    images = [{"image_id": name} for name in names]
    question = "What links IMAGE#1<Img><ImageHere></Img> and IMAGE#2<Img><ImageHere></Img>?"
    return {"question": question, "answer": f"Both show {number} boats.", "tgt_imgs": images}


def _regions(source: DataSource, folder: Path, slots: list[str], number: int) -> dict[str, Any]:
    """As Shikra-RD: phrases with the numbers of their boxes."""
    del source
    path = medium(slots[0], folder / f"{number}.jpg")
    question, answer = "Where is <ph_st>the boat<ph_ed>?", f"<ph_st>The boat<ph_ed> lies here, {number} times."
    boxes = {"boxes": [[10, 4, 40, 30]], "question_boxes_seq": [[0]], "answer_boxes_seq": [[0]]}
    return {"img_path": path, "question": question, "cot_with_ans": answer, "answer": "Here.", **boxes}


def _shard(file: Path) -> None:
    """A tar shard of webdataset: an image and its caption under one stem."""
    with tarfile.open(file, "w") as shard:
        for number in range(RECORDS):
            image = file.with_name(f"{number:05}.jpg")
            medium("image", image)
            shard.add(image, image.name)
            text = file.with_name(f"{number:05}.txt")
            text.write_text(f"a thing, number {number}", encoding="utf-8")
            shard.add(text, text.name)


WRITERS: Mapping[str, Callable[[DataSource, Path, list[str], int], dict[str, Any]]] = {
    "llava": _llava,
    "messages": _messages,
    "qa": _question,
    "alpaca": _question,
    "dialogue": _dialogue,
    "regions": _regions,
}
"""Reader -> a record in its published form."""
SUFFIX = {"image": ".png", "video": ".gif", "audio": ".wav", "points": ".npy", "picture": ".png"}


def medium(slot: str, path: Path) -> str:
    """A medium of a slot; returns the name of its file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if slot == "points":
        np.save(path, np.abs(synthetic.noise(300, 6)).astype(np.float32).clip(0, 1))
        return path.name
    makers: dict[str, Callable[[], str]] = {
        ".gif": lambda: synthetic.clip(path, 10, 40, 56),
        ".wav": lambda: synthetic.sound(path, 2.5),
    }
    return makers.get(path.suffix, lambda: synthetic.picture(path, 40, 56))()


def _point_bert() -> dict[str, torch.Tensor]:
    """As PointLLM publishes it, with the sizes that `small` of the system sets."""
    from omnivit_encoders.ulip.point_bert import PointBert

    torch.manual_seed(0)
    model = PointBert(6, 32, (8, 16, 16, 24), 24, 2, 2, 0.1)
    return {f"module.point_encoder.{name}": value for name, value in model.state_dict().items()}


def _imagebind() -> dict[str, torch.Tensor]:
    """As Meta publishes it, with the sizes that `small` of the systems set."""
    from omnivit_encoders.imagebind.model import build

    torch.manual_seed(0)
    parts = ("vision", "audio", "depth", "thermal", "imu")
    sizes = {f"{part}_{key}": size for part in parts for key, size in SMALL_PART.items()}
    model: torch.nn.Module = build(list(parts), {"out_embed_dim": 16, **sizes})
    return dict(model.state_dict())


SMALL_PART = {"embed_dim": 8, "num_blocks": 1, "num_heads": 2}


def _flamingo() -> dict[str, torch.Tensor]:
    """As OpenFlamingo publishes it: a perceiver over CLIP, gated layers before every fourth layer of the LLM, and the
    LLM's table of embeddings with the rows of <|endofchunk|>, <image> and <PAD> after LLaMA's 32000."""
    from omnivit_adapters.gated_cross_attention import GatedCrossAttentionConfig, GatedLayer
    from omnivit_adapters.resampler import ResamplerAdapter, ResamplerConfig

    torch.manual_seed(0)
    perceiver = ResamplerAdapter(ResamplerConfig(projection=False), VISION, LLM)
    weights = perceiver.network.state_dict()
    state = {f"perceiver.{name}": value for name, value in weights.items()}
    layer = GatedLayer(GatedCrossAttentionConfig(), VISION, LLM)
    prefix = "lang_encoder.gated_cross_attn_layers.3."
    state["lang_encoder.model.embed_tokens.weight"] = 0.02 * torch.randn(32003, LLM)
    return state | {f"{prefix}{name}": value for name, value in layer.state_dict().items()}


def _qformer() -> dict[str, torch.Tensor]:
    """A Q-Former with instruction as LAVIS's first stage saves it, with the sizes that `small` of the systems set."""
    from omnivit_adapters.qformer import QFormerAdapter, QFormerConfig

    torch.manual_seed(0)
    sizes = {"layers": 2, "heads": 2, "hidden": 24, "intermediate": 48}
    tokenizer = "google-bert/bert-base-uncased"
    config = QFormerConfig(**sizes, instruction_tokenizer=tokenizer, projection=False, input_norm=True)
    state = QFormerAdapter(config, VISION, LLM).state_dict()
    return {name.replace("input_norm.", "ln_vision."): value for name, value in state.items()}


def _mplug_owl() -> dict[str, torch.Tensor]:
    """The abstractor and the LLM of mPLUG-Owl."""
    from omnivit_adapters.resampler import ResamplerAdapter, ResamplerConfig
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    state = ResamplerAdapter(ResamplerConfig(kind="abstractor"), VISION, LLM).network.state_dict()
    folder = Path(os.environ["OMNIVIT_HUB"]) / "huggyllama/llama-7b"
    llm = LlamaForCausalLM.from_pretrained(folder).state_dict()
    names = {"abstractor": state, "language_model": llm}
    return {f"{part}.{name}": value.clone() for part, tensors in names.items() for name, value in tensors.items()}


def _linear(prefix: str, width: int) -> dict[str, torch.Tensor]:
    return {f"{prefix}weight": 0.02 * torch.randn(LLM, width), f"{prefix}bias": torch.zeros(LLM)}


VISION, LLM = 32, 64
"""Widths of the small towers and LLMs of the hub folder."""
FILES: Mapping[str, Callable[[], dict[str, torch.Tensor]]] = {
    "imagebind_huge.pth": _imagebind,
    "llava-7b-v0/mm_projector.bin": lambda: _linear("model.mm_projector.", VISION),
    "mmaaz60/LLaVA-7B-Lightening-v1-1/mm_projector.bin": lambda: _linear("model.mm_projector.", VISION),
    "pretrained_minigpt4_stage1.pth": lambda: _linear("llama_proj.", 24),
    "blip2_pretrained.pth": _qformer,
    "MAGAer13/mplug-owl-llama-7b/pytorch_model.bin": _mplug_owl,
    "openflamingo/OpenFlamingo-9B-deprecated/checkpoint.pt": _flamingo,
    "RunsenXu/PointLLM_7B_v1.2_init/point_bert_v1.2.pt": _point_bert,
}
"""Files of weights in their authors' form, by their place in the hub folder -> their content."""


def cut_back(run: Path, copy: Path, checkpoint: str) -> None:
    """A copy of a run as it stands where it was killed after `checkpoint`: without later ones and its report."""
    shutil.copytree(run, copy)
    for path in (copy / "checkpoints").iterdir():
        if path.name > checkpoint:
            shutil.rmtree(path)
    for path in copy.glob("report*"):
        path.unlink()
