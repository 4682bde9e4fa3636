"""`supervise: last`: an answer is learnt after a conversation that is only read, as Sparkles trains it."""

from __future__ import annotations

import pytest
from prepare_support import slot, small_preparer
from small_tokenizers import metaspace
from transformers import PreTrainedTokenizerBase

from omnivit.contracts.batch import IGNORE
from omnivit.contracts.sample import Media, Message, Sample, Text
from omnivit.data.chat import Chat
from omnivit.recipe.schema import ChatTemplate

TAG, END, TOKENS = "<ImageHere>", "###", 3
TEMPLATE = (
    "{% for m in messages %}{{ '###Human: ' if m.role == 'user' else '###Assistant: ' }}"
    "{% for part in m.content %}{{ part.text if part.type == 'text' else '<Img>' ~ part.placeholder ~ '</Img>' }}"
    "{% endfor %}{% endfor %}{{ '###Assistant: ' if add_generation_prompt else '###' }}"
)
FIRST, ANSWER = "What is on the mat in IMAGE#1", "A cat sat on the mat."
SECOND, LAST = "Is it on the mat in IMAGE#2", "yes, hello."


def original(tokenizer: PreTrainedTokenizerBase, instruction: str, answer: str) -> tuple[list[int], list[int]]:
    """Ids and labels of `prepare_text_data` and `prepare_label_data`, a formula of HYPJUDY/Sparkles,
    sparkles/datasets/datasets/multimodal_dialogue_dataset.py; the instruction is that of `format_SparklesDialogue`,
    dataset/generate_SparklesDialogue.py.

    The text is instruction, answer and `###`, encoded in one call. Labels begin after the tokens of the instruction
    alone, without its last one, which is the space that the answer's first word takes.
    """
    ids = tokenizer(f"{instruction}{answer}{END}")["input_ids"]
    prompt = tokenizer(instruction)["input_ids"]
    assert instruction.endswith(" ")
    return ids, [IGNORE] * (len(prompt) - 1) + ids[len(prompt) - 1 :]


@pytest.mark.parametrize("turns", [1, 2])
def test_ids_and_labels_are_those_of_sparkles(turns: int) -> None:
    tokenizer = metaspace(TAG)
    chat = Chat(tokenizer, ChatTemplate(TEMPLATE, end=END, bos=True), {"image": TAG})
    preparer = small_preparer(chat=chat, slots={"image": slot(TOKENS)}, supervise="last")
    images = [Media("image", f"{number}.png") for number in (1, 2)]
    messages = [
        Message("user", (Text(FIRST), images[0], Text("?"))),
        Message("assistant", (Text(ANSWER),)),
        Message("user", (Text(SECOND), images[1], Text("?"))),
        Message("assistant", (Text(LAST),)),
    ]
    tag = f"<Img>{TAG * TOKENS}</Img>?"
    instruction = f"###Human: {FIRST}{tag}###Assistant: "
    if turns == 2:
        instruction += f"{ANSWER}###Human: {SECOND}{tag}###Assistant: "
    encoded = preparer(Sample("s", tuple(messages[: 2 * turns])))
    ids, labels = original(tokenizer, instruction, LAST if turns == 2 else ANSWER)
    assert encoded.ids.tolist() == ids
    assert encoded.labels.tolist() == labels
    assert len(encoded.spans) == turns, "images of earlier turns stay in the prompt"
    everything = preparer(Sample("s", tuple(messages[: 2 * turns])), supervise="all").labels.tolist()
    assert (everything == labels) == (turns == 1)
