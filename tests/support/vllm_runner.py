"""Runs in vLLM's environment: `python vllm_runner.py JOBS ANSWERS`.

JOBS has a folder and prompts: `ids`, `media` (slot -> paths) and, for the same by the chat template, `messages`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(jobs: Path, answers: Path) -> None:
    """Answer all prompts together, greedily."""
    from vllm import LLM, SamplingParams

    job = json.loads(jobs.read_text())
    llm = LLM(job["model"], enforce_eager=True, dtype="float32", max_model_len=400, max_num_seqs=8)
    tokenizer: Any = llm.get_tokenizer()
    prompts = [{"prompt_token_ids": each["ids"], "multi_modal_data": each["media"]} for each in job["prompts"]]
    options = SamplingParams(temperature=0, max_tokens=job["tokens"], logprobs=job["logprobs"], ignore_eos=True)
    results = []
    for prompt, output in zip(job["prompts"], llm.generate(prompts, options), strict=True):
        ids = tokenizer.apply_chat_template(prompt["messages"], add_generation_prompt=True, return_dict=False)
        tops = output.outputs[0].logprobs
        logprobs = [{str(id): value.logprob for id, value in top.items()} for top in tops]
        results.append({"ids": list(output.outputs[0].token_ids), "logprobs": logprobs, "prompt": list(ids)})
    answers.write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
