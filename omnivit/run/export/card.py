"""The model card of an export: README.md, and a small file by which the folder is known as an export.

It names no path of the machine that trained, and nothing of single samples: their names may be those of people.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from omnivit import __version__
from omnivit.contracts.blocks import Block, blocks_of
from omnivit.contracts.encoder import Encoder
from omnivit.recipe import Recipe, to_yaml
from omnivit.run.export.opened import OpenRun
from omnivit.run.export.options import MARKER
from omnivit.run.export.places import name_of, without_places

CARD, REPORT, NATIVE = "README.md", "report.md", ("llava", "llava_next")
NOT_STATED = "not stated"
LIBRARIES = ("python", "omnivit", "torch", "transformers", "peft", "timm", "tokenizers")
LIBRARY_OF = {"hf": "transformers", "merged": "transformers", "safetensors": "omnivit"}
"""Kind of an export -> the library that loads it, where that is not its name."""
LLM_ALONE = ("merged", "peft", "gguf")
TASKS = {
    "image": "image-text-to-text",
    "page": "image-text-to-text",
    "video": "video-text-to-text",
    "audio": "audio-text-to-text",
}
"""Modality of a model's only input -> the hub's name of its task."""
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
SNIPPETS: Mapping[str, str] = MappingProxyType(
    {
        "native": """from transformers import AutoModelForImageTextToText, AutoProcessor

model, processor = AutoModelForImageTextToText.from_pretrained("."), AutoProcessor.from_pretrained(".")
content = [{"type": "image", "url": "picture.png"}, {"type": "text", "text": "What is in the image?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
    return_tensors="pt",
)
answer = model.generate(**inputs, max_new_tokens=32)[0][inputs["input_ids"].shape[1] :]
print(processor.decode(answer, skip_special_tokens=True))""",
        "general": """import omnivit.hf
from transformers import AutoModelForMultimodalLM, AutoProcessor

model, processor = (auto.from_pretrained(".") for auto in (AutoModelForMultimodalLM, AutoProcessor))
content = [{{"type": "{slot}", "{slot}": "FILE"}}, {{"type": "text", "text": "What is it?"}}]
inputs = processor.apply_chat_template([{{"role": "user", "content": content}}], add_generation_prompt=True)
print(processor.decode(model.generate(**inputs, max_new_tokens=32)[0][inputs["input_ids"].shape[1] :]))""",
        "merged": """from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
inputs = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0][inputs["input_ids"].shape[1] :]))""",
        "vllm": """from vllm import LLM, SamplingParams  # omnivit-vllm is installed beside it

llm = LLM(".")
content = [{{"type": "{slot}"}}, {{"type": "text", "text": "What is it?"}}]
ids = llm.get_tokenizer().apply_chat_template(
    [{{"role": "user", "content": content}}], add_generation_prompt=True, return_dict=False
)
question = {{"prompt_token_ids": ids, "multi_modal_data": {{"{slot}": "FILE"}}}}
print(llm.generate(question, SamplingParams(temperature=0, max_tokens=32))[0].outputs[0].text)""",
        "peft": """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, ".")""",
        "safetensors": """from safetensors import safe_open

with safe_open("trained.safetensors", "pt") as file:
    print(file.metadata()["components"], *file.keys(), sep="\\n")""",
    }
)
"""Form of an export -> Python that loads it, run in its folder."""


def write_card(opened: OpenRun, kind: str, folder: Path) -> None:
    """Write the card of an export into its folder."""
    (folder / MARKER).write_text(json.dumps({"kind": kind, "omnivit": __version__}) + "\n", encoding="utf-8")
    sections = [
        _heading(opened, kind),
        "## Model\n\n" + _model(opened),
        "## Training\n\n" + _training(opened.recipe, opened.provenance.get("data", {})),
        "## Recipe\n\n```yaml\n" + to_yaml(without_places(opened.recipe)).strip() + "\n```",
        "## Evaluation\n\n" + _evaluation(opened.folder / REPORT),
        "## Licences\n\n" + _licences(opened),
        "## Versions\n\n" + _versions(opened.provenance),
        "## Limits\n\n" + _limits(opened, kind, folder),
    ]
    if snippet := _snippet(opened, kind, folder):
        sections.insert(1, f"## How to load it\n\nIn this folder:\n\n```python\n{snippet}\n```")
    (folder / CARD).write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def form_of(kind: str, folder: Path) -> str:
    """The kind of an export; of `hf`, which of its two forms."""
    if kind != "hf":
        return kind
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return "native" if settings["model_type"] in NATIVE else "general"


def is_tiled(kind: str, folder: Path) -> bool:
    """Whether an export is a LLaVA-NeXT."""
    return kind == "hf" and json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == NATIVE[1]


def _heading(opened: OpenRun, kind: str) -> str:
    facts = yaml.safe_dump(_metadata(opened, kind), sort_keys=False)
    return (
        f"---\n{facts}---\n\n# {opened.folder.resolve().name}\n\n"
        f"Trained with OmniViT and written by `omnivit export --to {kind}`."
    )


def _metadata(opened: OpenRun, kind: str) -> dict[str, Any]:
    """What the hub reads: the head of the card. A licence is for its author to state."""
    facts: dict[str, Any] = {"library_name": LIBRARY_OF.get(kind, kind), "tags": ["omnivit"]}
    modalities = {encoder.modality for slot in opened.assistant.slots for encoder in _encoders(opened, slot)}
    if kind in LLM_ALONE:
        facts["pipeline_tag"] = "text-generation"
    elif kind == "hf" and len(modalities) == 1 and (task := TASKS.get(next(iter(modalities)))):
        facts["pipeline_tag"] = task
    base = opened.recipe.model.llm.get("path")
    if isinstance(base, str) and HUB_ID.fullmatch(base) and not Path(base).exists():
        facts["base_model"] = base
    return facts


def _encoders(opened: OpenRun, slot: str) -> tuple[Encoder, ...]:
    return opened.assistant.model.slot_encoders(slot)


def _snippet(opened: OpenRun, kind: str, folder: Path) -> str:
    snippet = SNIPPETS.get(form_of(kind, folder), "")
    if is_tiled(kind, folder):
        snippet = snippet.replace(
            'AutoProcessor.from_pretrained(".")', 'AutoProcessor.from_pretrained(".", backend="pil")'
        )
    slot = next(iter(opened.assistant.slots), "image")
    base = name_of(opened.recipe.model.llm.get("path") or "BASE")
    return snippet.format(slot=slot, base=base) if "{slot}" in snippet or "{base}" in snippet else snippet


def _parts(recipe: Recipe) -> Iterator[Block]:
    """The blocks of the plugins that the model is made of, each once."""
    seen = set()
    for block in blocks_of(recipe):
        key = json.dumps(dict(block.options), sort_keys=True, default=str)
        if block.is_plugin and block.registry is not None and key not in seen:
            seen.add(key)
            yield block


def _source(block: Block) -> str:
    options = block.options
    for key in ("path", "model"):
        if isinstance(options.get(key), str):
            return name_of(options[key])
    config = options.get("config")
    return f"{config.get('model_type', '')}, random weights at first" if isinstance(config, Mapping) else "-"


def _part_of(block: Block) -> str:
    place = str(block.where).split(" ")[0]
    return place.partition("model.")[2] or place


def _model(opened: OpenRun) -> str:
    rows = [f"| {_part_of(block)} | `{block.name}` | {_source(block)} |" for block in _parts(opened.recipe)]
    return "\n".join(["| part | plugin | source |", "| --- | --- | --- |", *rows])


def _training(recipe: Recipe, fingerprints: Mapping[str, Any]) -> str:
    rows = ["| stage | data | fingerprint | trained |", "| --- | --- | --- | --- |"]
    for stage in recipe.stages:
        trained = ", ".join(f"`{pattern}`: {rate:g}" for pattern, rate in stage.train.items())
        for number, source in enumerate(stage.data):
            mark = str(fingerprints.get(f"stages.{stage.name}.data[{number}]", NOT_STATED))
            rows.append(f"| {stage.name} | {Path(source.path).name} | {mark} | {trained} |")
    return "\n".join(rows) if recipe.stages else "The recipe has no stages: the run was imported."


def _evaluation(report: Path) -> str:
    """The verdict and the first table of the run's report, which say nothing of single samples."""
    text = report.read_text(encoding="utf-8") if report.is_file() else ""
    section = text.partition("## Evaluation\n")[2].partition("\n## ")[0].strip().splitlines()
    first = next((number for number, line in enumerate(section) if line.startswith("|")), None)
    if first is None:
        return "The run has no evaluation."
    last = next((n for n in range(first, len(section)) if not section[n].startswith("|")), len(section))
    before = [line for line in section[:first] if line.strip() and not line.startswith(("!", "#"))]
    return "\n\n".join([*before[:1], "\n".join(section[first:last])])


def _licences(opened: OpenRun) -> str:
    rows = ["| part | licence |", "| --- | --- |"]
    for block in _parts(opened.recipe):
        assert block.registry is not None
        weights = getattr(getattr(block.registry.get(block.name), "card", None), "weights", "") or NOT_STATED
        rows.append(f"| {_part_of(block)} (`{block.name}`, {_source(block)}) | {weights} |")
    names = dict.fromkeys(Path(source.path).name for stage in opened.recipe.stages for source in stage.data)
    rows += [f"| data: {name} | {NOT_STATED} |" for name in names]
    return "\n".join(rows)


def _versions(record: Mapping[str, Any]) -> str:
    libraries = {"omnivit": __version__, **record.get("libraries", {})}
    rows = [f"| {name} | {libraries[name]} |" for name in LIBRARIES if libraries.get(name)]
    plugins = {f"{p['distribution']} {p['version']}" for p in record.get("plugins", {}).values()}
    rows += [f"| plugins | {', '.join(sorted(plugins))} |"] if plugins else []
    return "\n".join(["| library | version |", "| --- | --- |", *rows])


def _limits(opened: OpenRun, kind: str, folder: Path) -> str:
    lines = ["- It answers what it was trained on. Check answers before you rely on them."]
    if not (opened.folder / REPORT).is_file():
        lines.append("- It was not evaluated, or the report was not kept: nothing is known of how often it is right.")
    form = form_of(kind, folder)
    if form == "native":
        lines.append(
            "- Outside of OmniViT, text that a user types can become a control token, such as the token of images or "
            "the end of a turn: remove such texts from what users type."
        )
        generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        if generation.get("suppress_tokens"):
            lines.append("- The tokenizer had no free token, so there is a new one for images. It is never written.")
    if is_tiled(kind, folder):
        lines.append(
            '- Load the processor with `backend="pil"`: without it, transformers resizes images by torchvision, which '
            "rounds pixels otherwise than in training."
        )
    if form in ("merged", "peft"):
        lines.append("- It is the LLM alone: it takes no media.")
    if form == "general":
        lines.append("- It needs the distributions that modeling_omnivit.py imports.")
    if opened.recipe.model.llm.get("quantize"):
        lines.append(
            f"- The run was trained over weights in {opened.recipe.model.llm['quantize']}; these are the unquantized "
            "ones, so its answers may differ slightly."
        )
    return "\n".join(lines)
