"""`generate_anew` gives what `transformers.generate` gives, token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from omnivit.contracts.generate import generate_anew
from omnivit.errors import RecipeError
from omnivit.model.causal import CausalLM
from omnivit.testing.llm_trial import LLMTrial, Prompts


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> LLMTrial:
    return LLMTrial.start(CausalLM, tmp_path_factory.mktemp("example"))


@pytest.fixture
def prompts(trial: LLMTrial) -> Prompts:
    return trial.prompts(left=True)


def both(trial: LLMTrial, prompts: Prompts, **options: Any) -> tuple[list[list[int]], list[list[int]]]:
    """New ids by transformers and by us, drawn from the same seed."""
    found = []
    for generate in (trial.llm.generate, lambda *given, **more: generate_anew(trial.llm, *given, **more)):
        torch.manual_seed(5)
        found.append(generate(*prompts, max_new_tokens=8, pad_token_id=0, **options).tolist())
    return found[0], found[1]


def test_greedily(trial: LLMTrial, prompts: Prompts) -> None:
    theirs, ours = both(trial, prompts, do_sample=False, eos_token_id=None)
    assert ours == theirs and len(ours[0]) == 8


def test_to_the_end_of_each(trial: LLMTrial, prompts: Prompts) -> None:
    plain, _ = both(trial, prompts, do_sample=False, eos_token_id=None)
    ends = [row[number + 1] for number, row in enumerate(plain)]  # the first ends after two, the last after four
    theirs, ours = both(trial, prompts, do_sample=False, eos_token_id=ends)
    assert ours == theirs != plain and 0 in ours[0]


@pytest.mark.parametrize(
    "options",
    [{"temperature": 1.0}, {"temperature": 0.4}, {"top_k": 5}, {"top_p": 0.3}, {"temperature": 2.0, "top_p": 0.9}],
)
def test_drawn(trial: LLMTrial, prompts: Prompts, options: dict[str, Any]) -> None:
    greedy, _ = both(trial, prompts, do_sample=False, eos_token_id=None)
    theirs, ours = both(trial, prompts, **{"do_sample": True, "eos_token_id": None, "top_k": 0, **options})
    assert ours == theirs != greedy


def test_beams_are_refused(trial: LLMTrial, prompts: Prompts) -> None:
    with pytest.raises(RecipeError, match="CausalLM has no beam search: `num_beams` is 3"):
        generate_anew(trial.llm, *prompts, num_beams=3)
