"""OmniViT against transformers: one LLaVA checkpoint, the same pictures, the same numbers.

The expected side is transformers' own processor and model; ours has passed `omnivit import-hf`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from llava_support import PARTS, save_checkpoint, save_pictures
from torch import Tensor

from omnivit import cli
from omnivit.contracts.sample import Sample
from omnivit.data.collate import EncodedSample, collate
from omnivit.data.records import messages_from
from omnivit.run.assistant import Assistant
from omnivit.run.loading import load

Conversation = list[dict[str, Any]]
TOLERANCE = {"rtol": 0.0, "atol": 1e-5}


@dataclass
class Pair:
    """One checkpoint, opened by both."""

    theirs: Any
    processor: Any
    ours: Assistant
    pictures: list[str]

    def encoded(self, conversation: Conversation, generate: bool = True) -> EncodedSample:
        return self.ours.preparer(Sample("s", messages_from(conversation, None, "s")), generate=generate)

    def inputs(self, conversations: list[Conversation], generate: bool = True) -> Any:
        """The batch of transformers' processor, padded on the left."""
        return self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=generate,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    def logits(self, conversations: list[Conversation]) -> tuple[list[Tensor], list[Tensor]]:
        """Ours and theirs: logits [T, V] of every conversation without its padding."""
        inputs = self.inputs(conversations)
        samples = [self.encoded(c) for c in conversations]
        batch = collate(samples, self.ours.slots, self.ours.preparer.chat.pad_id)
        with torch.inference_mode():
            expected = self.theirs(**inputs).logits
            found = self.ours.model(batch, keep=batch.attention_mask).logits
        ours = list(found.split([len(sample.ids) for sample in samples]))
        return ours, [row[mask.bool()] for row, mask in zip(expected, inputs["attention_mask"], strict=True)]


@pytest.fixture(scope="module", params=list(PARTS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    theirs, processor = save_checkpoint(request.param, folder / "checkpoint")
    assert len(list((folder / "checkpoint").glob("*.safetensors"))) > 1
    assert cli.main(["import-hf", str(folder / "checkpoint"), "--out", str(folder / "run")]) == 0
    (folder / "run").rename(folder / "moved")  # its paths are relative
    return Pair(theirs, processor, load(folder / "moved", device="cpu"), save_pictures(folder))


def user(text: str, *pictures: str) -> dict[str, Any]:
    images = [{"type": "image", "path": picture} for picture in pictures]
    return {"role": "user", "content": [*images, {"type": "text", "text": text}]}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def conversations(pair: Pair) -> list[Conversation]:
    """One picture; two in one sample; a second turn with another picture; text only."""
    wide, tall = pair.pictures
    return [
        [user("Which colour is it?", wide)],
        [user("Which of the two is red?", tall, wide)],
        [user("Is it a sky?", tall), assistant("It is red."), user("And this picture?", wide)],
        [user("Say a colour, please.")],
    ]


def test_tokens_are_those_of_the_processor(pair: Pair) -> None:
    for conversation in conversations(pair):
        expected = pair.inputs([conversation])["input_ids"][0]
        assert pair.encoded(conversation).ids.tolist() == expected.tolist()


@pytest.mark.parametrize("number", range(4))
def test_logits_of_one_sample(pair: Pair, number: int) -> None:
    (ours,), (theirs,) = pair.logits([conversations(pair)[number]])
    torch.testing.assert_close(ours, theirs, **TOLERANCE)


def test_logits_of_a_padded_batch(pair: Pair) -> None:
    ours, theirs = pair.logits(conversations(pair))
    assert len({len(row) for row in ours}) > 1
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, yours, **TOLERANCE)


def test_the_picture_matters(pair: Pair) -> None:
    """Otherwise equal logits would prove nothing about encoder, adapter and splice."""
    wide, tall = pair.pictures
    (first, other), _ = pair.logits([[user("Which?", wide)], [user("Which?", tall)]])
    assert float((first[-1] - other[-1]).abs().max()) > 0.5


def test_score(pair: Pair) -> None:
    wide, tall = pair.pictures
    question = [user("Which colour is it?", wide, tall)]
    ids = pair.inputs([[*question, assistant("It is red")]], generate=False)
    start = pair.inputs([question])["input_ids"].shape[1]
    with torch.inference_mode():
        probabilities = pair.theirs(**ids).logits.log_softmax(-1)[0, start - 1 : -1]
    answer = ids["input_ids"][0, start:]
    expected = probabilities.gather(1, answer.unsqueeze(1)).squeeze(1)
    found = pair.ours.score([*question, assistant("It is red")])
    torch.testing.assert_close(found, expected[: len(found)], **TOLERANCE)
    said = pair.processor.tokenizer.decode(answer[: len(found)])
    assert said.strip() in ("It is red", "It is red<|im_end|>")
    assert pair.processor.tokenizer.decode(answer[len(found) :]).strip() == ""


def test_scores_of_a_batch(pair: Pair) -> None:
    asked = [[*c, assistant("It is red")] for c in conversations(pair)]
    for together, alone in zip(pair.ours.score_many(asked, batch_size=4), map(pair.ours.score, asked), strict=True):
        torch.testing.assert_close(together, alone, **TOLERANCE)


def test_greedy_generation(pair: Pair) -> None:
    for conversation in conversations(pair):
        inputs = pair.inputs([conversation])
        with torch.inference_mode():
            expected = pair.theirs.generate(**inputs, max_new_tokens=12, do_sample=False)
        found = pair.ours.generate([pair.encoded(conversation)], 12)
        assert found[0].tolist() == expected[0, inputs["input_ids"].shape[1] :].tolist()


def test_greedy_generation_of_a_padded_batch(pair: Pair) -> None:
    inputs = pair.inputs(conversations(pair))
    with torch.inference_mode():
        expected = pair.theirs.generate(**inputs, max_new_tokens=12, do_sample=False)
    found = pair.ours.generate([pair.encoded(c) for c in conversations(pair)], 12)
    assert found.tolist() == expected[:, inputs["input_ids"].shape[1] :].tolist()
