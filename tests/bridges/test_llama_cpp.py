"""GGUF files in llama.cpp itself: log-probabilities and greedy tokens are those of the run.

Tolerances: 1e-5 where llama.cpp computes in float32; 1e-3 for Gemma and 5e-2 for images: it looks GELU up in a table
of 16-bit numbers, and rounds pixels to 16 bits.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assistant_support import make_run
from PIL import Image
from small_tokenizers import metaspace
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from omnivit.contracts.sample import Message, Sample, Text
from omnivit.data.chat import chat_of
from omnivit.engine import Request
from omnivit.errors import OmniVitWarning
from omnivit.model.causal import CausalConfig, CausalLM
from omnivit.recipe import load
from omnivit.run.export import export
from omnivit.run.export.gguf.llm import write_llm
from omnivit.run.export.opened import open_run

pytestmark = pytest.mark.bridges
RUNNER = Path(__file__).parents[1] / "support" / "llama_cpp_runner.py"
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LLMS: dict[str, tuple[dict[str, Any], float]] = {
    "llama": ({"model_type": "llama"}, 1e-5),
    "llama 3": (
        {
            "model_type": "llama",
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, **LLAMA_3},
        },
        1e-5,
    ),
    "linear": (
        {"model_type": "llama", "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
        1e-5,
    ),
    "mistral": ({"model_type": "mistral", "sliding_window": None}, 1e-5),
    "qwen2": ({"model_type": "qwen2", "tie_word_embeddings": True}, 1e-5),
    "qwen3": ({"model_type": "qwen3", "head_dim": 32}, 1e-5),
    "gemma": ({"model_type": "gemma", "head_dim": 32}, 1e-3),
}
WHOLE = 128
"""Ids of the byte tokenizer below this are characters; llama.cpp reports nothing for tokens that are half of one."""
ONLY_WHOLE = [[id, False] for id in range(WHOLE, 265)]


def ask(jobs: list[dict[str, Any]], folder: Path) -> list[list[dict[str, Any]]]:
    """The answers of llama.cpp, job by job."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [os.environ["OMNIVIT_LLAMA_CPP"], str(RUNNER), str(folder / "jobs.json"), str(folder / "answers.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[list[dict[str, Any]]] = json.loads((folder / "answers.json").read_text())
    return answers


def lively(llm: CausalLM) -> CausalLM:
    """Random weights with which the next token depends on all before, and with norms and biases that matter."""
    torch.manual_seed(0)
    for name, parameter in llm.hf.named_parameters():
        noise = torch.randn_like(parameter)
        parameter.data = parameter.data + 0.1 * noise if "norm" in name else noise * (0.12 if noise.ndim > 1 else 0.4)
    return llm.eval()


@torch.no_grad()
def greedy(llm: CausalLM, ids: list[int], number: int) -> tuple[list[int], list[float]]:
    """The likeliest characters and their log-probabilities among all tokens."""
    tokens, scores = list(ids), []
    for _ in range(number):
        row = llm.hf(input_ids=torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
        tokens.append(int(row[:WHOLE].argmax()))
        scores.append(float(row[tokens[-1]]))
    return tokens[len(ids) :], scores


def test_every_architecture_answers_as_in_transformers(tmp_path: Path) -> None:
    prompt, jobs, expected = list(range(40, 80)), [], []
    body = {"prompt": prompt, "n_predict": 16, "temperature": 0, "n_probs": 1, "logit_bias": ONLY_WHOLE}
    for name, (config, _) in LLMS.items():
        llm = lively(CausalLM(CausalConfig(config={**config, **SIZES}, tokenizer="bytes")))
        file = write_llm(llm, chat_of(llm), tmp_path / f"{name}.gguf", "float32")
        expected.append(greedy(llm, prompt, 16))
        jobs.append({"model": str(file), "requests": [["completions", {**body, "cache_prompt": False}]]})
    for (name, (_, tolerance)), (ids, scores), answers in zip(LLMS.items(), expected, ask(jobs, tmp_path), strict=True):
        steps = answers[0]["choices"][0]["logprobs"]["content"]
        assert [step["id"] for step in steps] == ids, name
        assert [step["logprob"] for step in steps] == pytest.approx(scores, abs=tolerance), name
        assert len(set(ids)) > 1 or name in ("qwen2", "gemma"), "the answer must depend on the prompt"


def test_a_sentencepiece_tokenizer_and_a_named_template_give_the_same_prompt(tmp_path: Path) -> None:
    metaspace().save_pretrained(tmp_path / "tokenizer")
    config = CausalConfig(
        config={"model_type": "llama", "vocab_size": 600, **SIZES},
        tokenizer=str(tmp_path / "tokenizer"),
        template="vicuna_v1",
    )
    llm = lively(CausalLM(config))
    chat = chat_of(llm)
    file = write_llm(llm, chat, tmp_path / "llm.gguf", "float32")
    texts = ["What is this? A cat sat on the mat.", "Hello, yes, no: \u00fcbel"]
    prompts = [llm.tokenizer()(text)["input_ids"] for text in texts]
    prompts += [chat.encode((Message("user", (Text(text),)),), (), generate=True).ids.tolist() for text in texts]
    asked = {"temperature": 0, "cache_prompt": False, "logit_bias": [[id, False] for id in range(3, 259)]}
    requests = [["completions", {"prompt": text, "n_predict": 1, "n_probs": 9, **asked}] for text in texts]
    for text in texts:
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1, "logprobs": True, "top_logprobs": 9}
        requests.append(["chat_completions", {**body, **asked}])
    for ids, answer in zip(prompts, ask([{"model": str(file), "requests": requests}], tmp_path)[0], strict=True):
        assert answer["usage"]["prompt_tokens"] == len(ids)
        with torch.no_grad():
            scores = llm.hf(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        assert [each["logprob"] for each in top] == pytest.approx([float(scores[each["id"]]) for each in top], abs=1e-5)


def test_lora_new_tokens_and_images_of_siglip_answer_as_in_the_run(tmp_path: Path) -> None:
    opened = open_run(_siglip_run(tmp_path), trust=True)
    with pytest.warns(OmniVitWarning, match="28 x 28"):
        files = export(opened, "gguf", tmp_path / "gguf", {"parts": "all", "dtype": "float32"})
    assert {"llm.gguf", "mmproj.gguf"} < {file.name for file in files}
    draws, requests, expected = np.random.default_rng(0), [], []
    assistant = opened.assistant
    for _ in range(3):
        image = Image.fromarray(draws.integers(0, 255, (28, 28, 3), dtype=np.uint8))
        turn = assistant.turn("What is it?", [("image", image)])
        prompt = assistant.preparer(Sample("q", (turn,)), generate=True, supervise="last")
        step = assistant.engine.submit(Request(prompt, 1, logprobs=265)).result().logprobs[0]
        expected.append((len(prompt.ids), dict(step.top)))
        requests.append(["chat_completions", _question(image)])
    job = {"model": str(tmp_path / "gguf/llm.gguf"), "mmproj": str(tmp_path / "gguf/mmproj.gguf"), "requests": requests}
    for (length, scores), answer in zip(expected, ask([job], tmp_path)[0], strict=True):
        assert answer["usage"]["prompt_tokens"] == length
        top = {each["id"]: each["logprob"] for each in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
        assert len(top) > 200
        assert [top[id] for id in sorted(top)] == pytest.approx([scores[id] for id in sorted(top)], abs=5e-2)
        assert max(scores.values()) - min(scores.values()) > 10, "5e-2 must be little"
    first, second = (scores for _, scores in expected[:2])
    assert max(abs(first[id] - second[id]) for id in first) > 0.5, "the answers must depend on the images"


def _siglip_run(tmp_path: Path) -> Path:
    settings = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        vision_use_head=False,
    )
    torch.manual_seed(0)
    SiglipVisionModel(settings).save_pretrained(tmp_path / "encoder")
    SiglipImageProcessor(size={"height": 28, "width": 28}).save_pretrained(tmp_path / "encoder")
    config = json.dumps({"model_type": "llama", **SIZES})
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"""
data: {{max_length: 512}}
model:
  llm:
    name: causal
    tokenizer: bytes
    template: chatml
    tokens: ["<new>"]
    config: {config}
    lora: {{r: 4, alpha: 8, targets: [q_proj, v_proj]}}
  inputs:
    image:
      encoder: {{name: clip, path: {tmp_path}/encoder}}
      adapter: {{name: mlp, depth: 2, activation: gelu_tanh}}
stages:
  - name: instruct
    data: [{{path: a.jsonl}}]
    train: {{"adapters.*": 1e-3, "llm.*lora_*": 1e-3, "llm.tokens.*": 1e-3}}
"""
    )
    return make_run(load(file), tmp_path / "run", scale={"encoders": 0.4})


def _question(image: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    address = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": "What is it?"}]
    return {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 265,
        "logit_bias": ONLY_WHOLE,
        "cache_prompt": False,
    }
