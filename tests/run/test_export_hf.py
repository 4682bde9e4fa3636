"""What `omnivit export` writes computes the same as the run, in transformers and peft, and comes back by `import-hf`.

Tolerances: 1e-5 of log-probabilities and 1e-4 of the logits of merged LoRA, in float32 (issue: train versus serve).
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from assistant_support import make_run
from fastapi.testclient import TestClient
from llava_support import save_checkpoint
from PIL import Image
from safetensors.torch import load_file, save_file
from tests_support import RECIPE
from torch import Tensor

from omnivit import Assistant, load
from omnivit.contracts.sample import Message, Sample, Text
from omnivit.data.collate import collate
from omnivit.errors import OmniVitError
from omnivit.model.build import load_model, preparer_of
from omnivit.model.filled import all_tensors
from omnivit.recipe import Recipe
from omnivit.recipe import load as load_recipe
from omnivit.run import folder as run_folder
from omnivit.run.export import export
from omnivit.run.export.opened import OpenRun, open_run
from omnivit.run.export.reading import check_same
from omnivit.run.export.trial import differing_prompt, prompt
from omnivit.run.importing.llava import import_llava
from omnivit.serve.app import Settings, create_app
from omnivit.train import checkpoint
from omnivit.train.losses import token_log_probs

QUESTIONS = [f"Which colour is {thing}?" for thing in ("it", "the sky", "a car", "grass", "the left", "1 + 1", "Ünï")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf")
    (path / "tiny.yaml").write_text(RECIPE.format(root=path))
    for number, size in enumerate(((64, 48), (30, 50), (36, 36))):
        red, green = Image.linear_gradient("L").resize(size), Image.radial_gradient("L").resize(size)
        Image.merge("RGB", (red, green, red.rotate(120 * number))).save(path / f"{number}.png")
    return path


def recipe_of(home: Path, *overrides: str) -> Recipe:
    return load_recipe(home / "tiny.yaml", overrides)


@pytest.fixture(scope="module")
def opened(home: Path) -> OpenRun:
    return open_run(
        make_run(recipe_of(home, "model.llm.lora.dropout=0"), home / "run")
    )  # so that train() adds no noise


@pytest.fixture(scope="module")
def native(opened: OpenRun, home: Path) -> Path:
    export(opened, "hf", home / "native", {"form": "native"})
    return home / "native"


@pytest.fixture(scope="module")
def general(opened: OpenRun, home: Path) -> Path:
    export(opened, "hf", home / "general", {"form": "any"})
    return home / "general"


def questions(assistant: Assistant, home: Path) -> list[list[Message]]:
    """Twenty: with one image, with two, and without any."""
    files = [str(home / f"{number % 3}.png") for number in range(20)]
    media = [[] if n % 5 == 4 else [("image", f)] * (1 + (n % 7 == 3)) for n, f in enumerate(files)]
    return [[assistant.turn(QUESTIONS[n % len(QUESTIONS)], media[n])] for n in range(20)]


def request(messages: list[Message]) -> dict[str, Any]:
    """The same question for the server, greedily, with log-probabilities."""
    parts: list[dict[str, Any]] = []
    for part in messages[0].parts:
        if isinstance(part, Text):
            parts.append({"type": "text", "text": part.text})
        else:
            data = base64.b64encode(Path(part.source).read_bytes()).decode()
            parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    turn = {"role": "user", "content": parts}
    return {"model": "omnivit", "messages": [turn], "max_tokens": 8, "temperature": 0, "logprobs": True}


@torch.inference_mode()
def served(model: Any, inputs: dict[str, Tensor], answer: list[int]) -> tuple[Tensor, list[int]]:
    """The log-probabilities of the ids of an answer after a prompt, and the ids that are generated."""
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer])], dim=1)
    longer = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    logits = model(**longer).logits[0, -len(answer) - 1 : -1].float()
    new = model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    return logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)], new.tolist()


@torch.inference_mode()
def by_own_class(model: Any, processor: Any, turns: list[dict[str, Any]]) -> tuple[Tensor, list[int]]:
    """The same of a folder of the general form; the last turn is the answer."""
    inputs = processor.apply_chat_template(turns)
    targets = inputs["batch"].labels[0, 1:]
    chosen = model(**inputs).logits[0, :-1].log_softmax(-1)[targets >= 0, targets[targets >= 0]]
    inputs = processor.apply_chat_template(turns[:-1], add_generation_prompt=True)
    return chosen, model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :].tolist()


def test_twenty_questions_have_the_same_probabilities_and_answers_everywhere(
    opened: OpenRun, native: Path, general: Path, home: Path
) -> None:
    """The trainer's forward, `score` and `ask` of a loaded run, the server, the exported LLaVA, and the other form."""
    from transformers import AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

    import omnivit.hf

    assert omnivit.hf.OmniViTConfig.model_type == "omnivit"
    general_model: Any = AutoModelForMultimodalLM.from_pretrained(general)
    general_processor: Any = AutoProcessor.from_pretrained(general)
    assistant = load(opened.folder, device="cpu")
    model: Any = AutoModelForImageTextToText.from_pretrained(native)
    processor: Any = AutoProcessor.from_pretrained(native)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    client = TestClient(create_app(assistant, Settings()), base_url="http://127.0.0.1:8000")
    training = preparer_of(assistant.model, assistant.recipe, assistant.recipe.stages[-1])
    for messages in questions(assistant, home):
        full = [*messages, Message("assistant", (Text("red and green"),))]
        encoded = training(Sample("q", tuple(full)))
        batch = collate([encoded], assistant.slots, training.chat.pad_id)
        trained = token_log_probs(assistant.model.train()(batch).logits, batch)
        assistant.model.eval()
        scored = assistant.score_samples([Sample("q", tuple(full))], 1)[0]
        answer = [int(id) for id in encoded.labels if id >= 0]
        inputs = prompt(processor, messages)
        exported, generated = served(model, inputs, answer)
        turns = [{"role": "user", "content": [_part(part) for part in messages[0].parts]}]
        turns.append({"role": "assistant", "content": "red and green"})
        log_probs, new = by_own_class(general_model, general_processor, turns)
        assert log_probs.tolist() == pytest.approx(scored.tolist(), abs=1e-5) and new == generated
        assert exported == pytest.approx(scored.tolist(), abs=1e-5)
        assert scored.tolist() == pytest.approx(trained.tolist(), abs=1e-5)
        asked = assistant.preparer(Sample("q", tuple(messages)), generate=True)
        assert generated == assistant.generate([asked], 8)[0].tolist()
        answering = assistant.start(messages, max_new_tokens=8)
        assert answering.reply().text == assistant.reply(messages, max_new_tokens=8)
        ids = answering.generated.ids
        assert ids == generated[: len(ids)] and len(ids) >= len(generated) - 1
        response = client.post("/v1/chat/completions", json=request(messages))
        assert response.status_code == 200, response.text
        answer_of_server = response.json()["choices"][0]
        assert answer_of_server["message"]["content"] == answering.reply().text
        chosen = [token["logprob"] for token in answer_of_server["logprobs"]["content"]]
        expected = served(model, inputs, ids)[0]
        assert 0 < len(chosen) <= len(ids) and chosen == pytest.approx(expected[: len(chosen)].tolist(), abs=1e-5)


def test_a_native_folder_is_whole_and_comes_back_by_import(opened: OpenRun, native: Path, tmp_path: Path) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    names = {path.name for path in native.iterdir()}
    assert {"preprocessor_config.json", "processor_config.json", "chat_template.jinja", "README.md"} <= names
    model, report = LlavaForConditionalGeneration.from_pretrained(native, output_loading_info=True)
    assert not any(report.values())
    processor = AutoProcessor.from_pretrained(native)
    assert differing_prompt(opened.assistant, processor, model.config.image_token_id) is None
    import_llava(native, tmp_path / "back")
    back = load(tmp_path / "back", device="cpu")
    conversation = [
        {
            "role": "user",
            "content": [{"type": "image", "image": Image.new("RGB", (50, 40), "red")}, {"type": "text", "text": "Hm?"}],
        },
        {"role": "assistant", "content": "Red."},
    ]
    assert back.score(conversation).tolist() == pytest.approx(opened.assistant.score(conversation).tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", ["vicuna", "interleave"])
def test_published_forms_make_the_whole_round(kind: str, tmp_path: Path) -> None:
    """CLIP with Llama and its BOS; SigLIP with Qwen2, tied embeddings and no bias: HF -> run -> HF, equal logits."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    before, processor = save_checkpoint(kind, tmp_path / "first")
    import_llava(tmp_path / "first", tmp_path / "run")
    export(open_run(tmp_path / "run"), "hf", tmp_path / "second", {"form": "native"})
    after: Any = AutoModelForImageTextToText.from_pretrained(tmp_path / "second")
    again: Any = AutoProcessor.from_pretrained(tmp_path / "second")
    question = [
        {"type": "image", "image": Image.linear_gradient("L").convert("RGB")},
        {"type": "text", "text": "Colour?"},
    ]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    with torch.inference_mode():
        pair = [
            model(**processed.apply_chat_template([{"role": "user", "content": question}], **options)).logits
            for model, processed in ((before, processor), (after, again))
        ]
    torch.testing.assert_close(pair[0], pair[1], atol=1e-5, rtol=1e-5)


def test_new_tokens_and_dora_and_padding_are_in_a_native_folder(home: Path, tmp_path: Path) -> None:
    changes = ["model.llm.tokens=['<answer>']", "model.llm.lora.dora=true", "model.inputs.image.encoder.fit=pad"]
    opened = open_run(make_run(recipe_of(home, *changes), tmp_path / "run"))
    export(opened, "hf", tmp_path / "out", {"form": "native"})  # the trial compares prompts and logits
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["text_config"]["vocab_size"] == 265, "264 bytes and tokens, and the new one"


def test_what_transformers_has_not_becomes_a_general_folder(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deeper = open_run(make_run(recipe_of(home, "model.inputs.image.adapter.depth=3"), tmp_path / "run"))
    with pytest.raises(OmniVitError, match=r"no model that transformers has: its adapter is no `mlp` of depth 1, or"):
        export(deeper, "hf", tmp_path / "out", {"form": "native"})
    export(deeper, "hf", tmp_path / "out", {})
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "omnivit"
    assert "its adapter is no `mlp` of depth 1" in caplog.text


def _part(part: Any) -> dict[str, Any]:
    return {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": "image", "image": part.source}


def test_weights_in_half_precision_are_those_of_the_run_rounded(opened: OpenRun, native: Path, tmp_path: Path) -> None:
    """Bit by bit, in both forms; what the LLM computes positions from, and LoRA, is not rounded."""
    for form in ("native", "any"):
        export(opened, "hf", tmp_path / form, {"form": form, "dtype": "bfloat16"})
    exact, rounded = (load_file(folder / "model.safetensors") for folder in (native, tmp_path / "native"))
    assert {name: value.bfloat16() for name, value in exact.items()}.keys() == rounded.keys()
    assert all(torch.equal(rounded[name], value.bfloat16()) for name, value in exact.items())
    tensors = load_file(tmp_path / "any" / "model.safetensors")
    originals = all_tensors(opened.assistant.model)
    assert tensors.keys() == originals.keys()
    dtypes = {name: value.dtype for name, value in tensors.items() if value.is_floating_point()}
    assert {n for n, d in dtypes.items() if d != torch.bfloat16} == {
        name for name in dtypes if "lora_" in name or "inv_freq" in name or not name.startswith("llm.hf.")
    }
    assert all(torch.equal(value, originals[name].to(value.dtype)) for name, value in tensors.items())
    damaged = tensors | {"llm.hf.model.norm.weight": tensors["llm.hf.model.norm.weight"] + 1}
    save_file(damaged, tmp_path / "any" / "model.safetensors", {"format": "pt"})
    with pytest.raises(OmniVitError, match=r"would not give the same model: llm\.hf\.model\.norm\.weight differs"):
        check_same(opened.assistant, tmp_path / "any")


@pytest.mark.slow
def test_a_general_folder_loads_by_its_own_code_elsewhere(general: Path, tmp_path: Path) -> None:
    """In a process that has not imported OmniViT, from a moved folder, with trust_remote_code."""
    moved = general.rename(tmp_path / "moved")
    code = (
        "from transformers import AutoModelForMultimodalLM, AutoProcessor\n"
        "options = {'trust_remote_code': True}\n"
        f"model = AutoModelForMultimodalLM.from_pretrained({str(moved)!r}, **options)\n"
        f"processor = AutoProcessor.from_pretrained({str(moved)!r}, **options)\n"
        "inputs = processor.apply_chat_template([{'role': 'user', 'content': 'Hm?'}], add_generation_prompt=True)\n"
        "print(type(model).__name__, model.generate(**inputs, max_new_tokens=3).shape[1] > 3)\n"
    )
    environment = {"HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    moved.rename(general)
    assert result.stdout.split() == ["OmniViTForConditionalGeneration", "True"], result.stderr


def test_merged_lora_and_an_adapter_of_peft_give_the_logits_of_the_run(home: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = recipe_of(home)
    run_folder.create(tmp_path / "run", recipe)
    model = load_model(recipe)
    torch.manual_seed(0)
    trained = ("adapters.", ".lora_")
    weights = {n: torch.randn_like(v) * 0.3 for n, v in model.named_parameters() if any(t in n for t in trained)}
    state = {"stage": "instruct", "stage_index": 1, "step": 1, "total_steps": 1, "skipped": [], "seconds": 0.0}
    name = checkpoint.checkpoint_name(1, "instruct", 1)
    checkpoint.save(tmp_path / "run" / run_folder.CHECKPOINTS, name, weights, {}, state)
    opened = open_run(tmp_path / "run")
    for kind in ("merged", "peft"):
        export(opened, kind, tmp_path / kind, {})
    plain = {n.replace(".base_layer", ""): v for n, v in model.llm.hf.state_dict().items() if ".lora_" not in n}
    base: Any = AutoModelForCausalLM.from_config(model.llm.hf.config)
    base.load_state_dict(plain)
    ids = torch.arange(40, 90)[None]
    with torch.inference_mode():
        expected = opened.llm.hf(ids).logits
        assert (base(ids).logits - expected).abs().max() > 0.01, "LoRA changes something"
        merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
        assert (merged(ids).logits - expected).abs().max() <= 1e-4
        adapted: Any = PeftModel.from_pretrained(base, str(tmp_path / "peft"))
        assert (adapted(ids).logits - expected).abs().max() <= 1e-5
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "merged")
    prompt_ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    encoded = opened.assistant.preparer(Sample("q", (Message("user", (Text("Hello"),)),)), generate=True)
    assert prompt_ids == encoded.ids.tolist()


def test_a_card_says_what_the_model_is_and_no_place_of_this_machine(native: Path, general: Path, home: Path) -> None:
    for folder in (native, general):
        for file in (path for path in folder.rglob("*") if path.suffix in (".md", ".json", ".yaml", ".py")):
            assert str(home) not in file.read_text(encoding="utf-8"), file
        card = (folder / "README.md").read_text(encoding="utf-8")
        for word in (
            "CLIP (OpenAI): MIT",
            "data: train.jsonl | not stated",
            "`adapters.*`: 0.01",
            "| omnivit | 0.1.0 |",
        ):
            assert word in card
        compile(card.partition("```python\n")[2].partition("```")[0], "card", "exec")
