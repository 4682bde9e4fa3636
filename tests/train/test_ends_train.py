"""Text that ends an answer and tokens of content, trained: what is learnt is what an answer then does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import omnivit
from omnivit.contracts.sample import Sample
from omnivit.errors import RecipeError
from omnivit.model.build import load_model
from omnivit.recipe import Recipe
from omnivit.run import folder
from omnivit.run.check import check
from omnivit.run.runner import train
from omnivit.train import checkpoint

Load = Callable[..., Recipe]
OTTER = ("model.llm.template=otter", "model.llm.tokens=['<answer>','<|endofchunk|>','<p>']",
         "model.llm.ends=['<|endofchunk|>']")  # fmt: skip


def test_content_tokens_are_rows_that_train_alone(load_recipe: Load, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no stage trains llm.tokens.\*, .*\(<answer>, <\|endofchunk\|>, <p>\)"):
        check(load_recipe(*OTTER), with_data=False)
    recipe = load_recipe(*OTTER, "stages.*.steps=2", "stages.*.train={'llm.tokens.*': 1e-2}")
    before = load_model(recipe)
    table = before.llm.embedding()
    rows = before.llm.tokens
    assert rows is not None and rows.embedding.shape == (3, 32)
    torch.testing.assert_close(rows.embedding, table.mean(dim=0).expand(3, -1), rtol=0, atol=1e-6)
    folder.create(tmp_path / "run", recipe)
    train(recipe, tmp_path / "run")
    weights = checkpoint.of_stage(tmp_path / "run" / folder.CHECKPOINTS, 1).weights()
    assert set(weights) == {"llm.tokens.embedding", "llm.tokens.output"}
    moved = (weights["llm.tokens.output"] - rows.output).abs().amax(dim=1)
    assert moved[1] > 1e-3, "<|endofchunk|> ends every answer, so its row is learnt"
    assistant = omnivit.load(tmp_path / "run", "cpu")
    chat = assistant.preparer.chat
    vocabulary = assistant.model.llm.tokenizer().get_vocab()
    assert chat.stop_ids == (258, vocabulary["<|endofchunk|>"]) and sorted(chat.content_ids().values()) == [
        "<answer>",
        "<p>",
    ]
    assert isinstance(assistant.ask("Which colour?", max_new_tokens=4), str)


@pytest.mark.slow
def test_a_text_that_ends_answers_is_learnt(load_recipe: Load, data_root: Path, tmp_path: Path) -> None:
    """LLaVA's first template: the model writes `\\n###` after its answer, and the answer is what stands before it."""
    recipe = load_recipe(
        "model.llm.template=vicuna_v0", "stages.*.epochs=30", "stages.*.train={'llm.*': 5e-3, 'adapters.*': 5e-3}",
        "model.llm.lora=null", "stages.*.batch_size=8",
    )  # fmt: skip
    folder.create(tmp_path / "run", recipe)
    train(recipe, tmp_path / "run")
    assistant = omnivit.load(tmp_path / "run", "cpu")
    for colour in ("red", "green", "blue"):
        pieces: list[str] = []
        image = str(data_root / f"{colour}.png")
        assert assistant.ask("Which colour?", image=image, max_new_tokens=40, on_text=pieces.append) == colour
        assert "".join(pieces) == colour
        turn = assistant.turn("Which colour?", [("image", image)])
        prompt = assistant.preparer(Sample("question", (turn,)), generate=True)
        ids = assistant.generate([prompt], 40)[0].tolist()
        # generation ends with the text, and not at its limit
        assert assistant.preparer.chat.decode(ids).lstrip() == f"{colour}\n###"
