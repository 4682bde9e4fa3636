"""Questions get their words from the recipe's prompts: which, where their media go, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
from prepare_support import slot, small_preparer

from omnivit.contracts.sample import Media, Message, Part, Prompt, Sample, Text
from omnivit.data.module import PreparedSamples
from omnivit.data.prepare import Preparer
from omnivit.data.slot import InstructionReader
from omnivit.data.sources import open_mixture, open_source
from omnivit.data.wording import Wordings, wordings_of
from omnivit.errors import DataError, RecipeError
from omnivit.model.tokens import byte_tokenizer
from omnivit.recipe import DataSource, load

IMAGE, SECOND, SOUND = Media("image", "a.png"), Media("image", "b.png"), Media("audio", "a.wav")
DRAWS = 10_000


def asked(*parts: str | Part, task: str | None = None, prompts: Mapping[str, Sequence[str]] | None = None) -> Sample:
    """A sample with a question of these parts, and an answer."""
    question = tuple(Text(part) if isinstance(part, str) else part for part in parts)
    extra: dict[str, Any] = {} if task is None else {"task": task}
    messages = (Message("user", question), Message("assistant", (Text("yes"),)))
    return Sample("s", messages, "f.jsonl:3", extra, prompts=prompts)


def question(sample: Sample) -> list[str | Media | Part]:
    """The parts of the question, texts as they are."""
    return [part.text if isinstance(part, Text) else part for part in sample.messages[-2].parts]


@pytest.mark.parametrize(
    ("parts", "wording", "expected"),
    [
        ([IMAGE, Prompt("caption")], "Describe it.", [IMAGE, "Describe it."]),
        ([IMAGE, "\n", Prompt()], "{image} Describe it.", [IMAGE, " Describe it."]),
        ([IMAGE, Prompt("", {"who": "Ada"})], "Where is {who}? {media}", ["Where is Ada? ", IMAGE]),
        ([Prompt("", {"a": "{b}"})], "{{x}} {a}", ["{x} {b}"]),
        ([IMAGE, SOUND, SECOND, Prompt()], "{image}, {audio}!", [SECOND, IMAGE, ", ", SOUND, "!"]),
        ([IMAGE, SOUND, SECOND, Prompt()], "{image}: {media}", [IMAGE, ": ", SOUND, SECOND]),
        ([IMAGE, "\nWhat?"], "Q: {question} A:", [IMAGE, "\nQ: What? A:"]),
        ([IMAGE, "\nWhat?"], "{question}\n{media}", ["What?\n", IMAGE]),
        (["What?\n", IMAGE], "{media}\n{question}", [IMAGE, "\nWhat?"]),
        (["Is ", IMAGE, " like ", SECOND, "?"], "Q: {question}", ["Q: Is ", IMAGE, " like ", SECOND, "?"]),
        ([IMAGE, "\n"], "Describe it.", [IMAGE, "\nDescribe it."]),
    ],
)
def test_a_wording_is_put_around_the_question_and_its_media(
    parts: list[str | Part], wording: str, expected: list[str | Part]
) -> None:
    assert question(Wordings({"*": [wording]})(asked(*parts))) == expected
    assert question(Wordings()(asked(*parts, prompts={"*": [wording]}))) == expected


def test_a_source_comes_before_its_stage_and_a_task_before_any_task() -> None:
    stage = Wordings({"vqa": ["stage vqa"], "*": ["stage any"]})
    for prompts, task, expected in [
        ({"vqa": ["source vqa"], "*": ["source any"]}, "vqa", "source vqa"),
        ({"vqa": ["source vqa"], "*": ["source any"]}, "ocr", "source any"),
        ({"vqa": ["source vqa"]}, "ocr", "stage any"),
        (None, "vqa", "stage vqa"),
    ]:
        assert question(stage(asked(Prompt(task), prompts=prompts))) == [expected]
        assert question(stage(asked(Prompt(), task=task, prompts=prompts))) == [expected]


def test_a_stage_changes_only_samples_of_its_tasks() -> None:
    stage = Wordings({"vqa": ["Q: {question}"]})
    assert question(stage(asked("What?", task="vqa"))) == ["Q: What?"]
    for sample in (asked("What?", task="chat"), asked("What?")):
        assert stage(sample).messages == sample.messages


def test_a_question_to_a_model_in_use_keeps_its_words_unless_it_names_a_task() -> None:
    words = Wordings({"*": ["Describe it."], "vqa": ["Q: {question}"]}, in_use=True)
    assert question(words(asked("What?"))) == ["What?"]
    assert question(words(asked("What?", task="vqa"))) == ["Q: What?"]
    assert question(words(asked(Prompt()))) == ["Describe it."]


def test_only_the_first_question_gets_words_and_only_once() -> None:
    turns = ("What?", "And now?")
    messages = [m for text in turns for m in (Message("user", (Text(text),)), Message("assistant", (Text("a"),)))]
    words = Wordings({"*": ["Q: {question}"]})
    sample = words(words(Sample("s", tuple(messages))))
    assert [message.text for message in sample.messages] == ["Q: What?", "a", "And now?", "a"]


@pytest.mark.parametrize(
    ("parts", "wording", "problem"),
    [
        ([Prompt("b")], "x", "there is no wording for the task 'b'. Available: 'a', 'c'."),
        ([Prompt()], "x", "there is no wording for a sample without a task"),
        ([Prompt("a", {"x": "1"})], "{y}", r"needs {y}, which the question does not have. Available: x\."),
        (
            [IMAGE, Prompt("a")],
            "{audio}",
            r"needs {audio}, which the question does not have. Available: image, media\.",
        ),
        ([Prompt("a")], "{media}", r"needs {media}.* Available: none\."),
        ([IMAGE, Prompt("a")], "{image} {image}", "has 2 places for media of 'image', but the question has 1"),
        ([Prompt("a"), Prompt("a")], "x", r"message 1 \(user\) contains 2 prompts"),
    ],
)
def test_what_a_question_lacks_is_refused_with_what_there_is(parts: list[Part], wording: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        Wordings({"a": [wording], "c": ["x"]})(asked(*parts))


def test_a_wording_never_drops_the_text_of_a_question_nor_moves_media_out_of_it() -> None:
    with pytest.raises(DataError, match="would drop the text of the question"):
        Wordings({"*": ["Describe it."]})(asked(IMAGE, "What?"))
    with pytest.raises(DataError, match="media inside its text"):
        Wordings({"*": ["{media} {question}"]})(asked("Is ", IMAGE, " red?"))
    with pytest.raises(DataError, match=r"data source has `prompts`, but none for the task 'b'. Available: 'a'"):
        Wordings()(asked("What?", task="b", prompts={"a": ["{question}"]}))


def test_all_wordings_of_a_task_have_to_fit_not_only_the_one_that_is_drawn() -> None:
    with pytest.raises(DataError, match=r"needs \{name\}"):
        Wordings({"*": ["Describe it.", "Where is {name}?"]})(asked(Prompt()))


@pytest.mark.parametrize("text", ["{", "}", "{0}", "{}", "{a!r}", "{a:>3}", "{media} {media}", "<image> what?"])
def test_a_wording_that_cannot_be_read_is_refused_where_the_recipe_is_opened(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    with pytest.raises(RecipeError, match=r"data.prompts: the wording"):
        open_source(DataSource("a.jsonl", prompts=[text]), tmp_path)


def test_each_wording_is_drawn_equally_often_and_by_seed_epoch_and_sample_alone() -> None:
    texts = ["one", "two", "three", "four"]
    words = Wordings({"*": texts})
    sample = asked(Prompt())
    drawn = Counter(question(words(sample, seed))[0] for seed in range(DRAWS))
    share = 1 / len(texts)
    sigma = sqrt(DRAWS * share * (1 - share))
    assert all(abs(drawn[text] - DRAWS * share) < 3 * sigma for text in texts), drawn
    assert [words(sample, seed) for seed in range(50)] == [words(sample, seed) for seed in range(50)]
    assert words(sample) == words(sample, None), "evaluation and answers"
    assert question(words(sample)) == ["one"]


def test_the_order_of_image_and_question_is_drawn_as_llava_draws_it() -> None:
    """Eq. 2 of Liu et al., arXiv 2304.08485: [question, image] or [image, question] in the first turn."""
    words = Wordings({"*": ["{media}\n{question}", "{question}\n{media}"]})
    orders = {repr(question(words(asked(IMAGE, "\nWhat?"), seed))) for seed in range(50)}
    assert orders == {repr([IMAGE, "\nWhat?"]), repr(["What?\n", IMAGE])}


def test_the_longest_question_is_the_one_with_the_most_text_after_its_fields_are_filled_in() -> None:
    words = Wordings({"*": ["Short.", "Longer than the next one?", "See {a}."]}, longest=True)
    assert question(words(asked(Prompt("", {"a": "x" * 40})), seed=1)) == [f"See {'x' * 40}."]
    assert question(words(asked(Prompt("", {"a": "x"})))) == ["Longer than the next one?"]


def test_a_task_has_a_system_text() -> None:
    words = Wordings(system={"vqa": "Answer shortly.", "*": "Be kind."})
    for task, text in (("vqa", "Answer shortly."), ("chat", "Be kind."), (None, "Be kind.")):
        system, *rest = words(asked("What?", task=task)).messages
        assert (system.role, system.text, len(rest)) == ("system", text, 2)
    only = Wordings(system={"vqa": "Answer shortly."})
    assert only(asked("What?")).messages == asked("What?").messages
    with pytest.raises(DataError, match=r"`system` has no text for the task 'chat'. Available: 'vqa'"):
        only(asked("What?", task="chat"))
    own = asked("What?", task="vqa")
    with pytest.raises(DataError, match="the record has a system text"):
        words(Sample("s", (Message("system", (Text("Own."),)), *own.messages), extra=own.extra))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Captions without questions, and the wordings in a file of each form."""
    record = [
        {"role": "user", "content": [{"type": "image", "path": "a.png"}, {"type": "prompt", "task": "caption"}]},
        {"role": "assistant", "content": "A boat."},
    ]
    lines = [json.dumps({"id": f"c{k}", "messages": record}) + "\n" for k in range(8)]
    (tmp_path / "captions.jsonl").write_text("".join(lines))
    (tmp_path / "caption.txt").write_text("\ufeffDescribe it.\n\nWhat is it, {media}?\n")
    (tmp_path / "tasks.yaml").write_text("caption:\n  - Describe it.\n  - 'What is it, {media}?'\nvqa: '{question}'\n")
    (tmp_path / "tasks.json").write_text('{"caption": ["Describe it.", "What is it, {media}?"]}')
    return tmp_path


def texts_of(preparer: Preparer, root: Path, prompts: Any, epoch: int, seed: int | None) -> list[str]:
    """The prepared samples of the captions, decoded."""
    mixture = open_mixture([DataSource("captions.jsonl", prompts=prompts)], root)
    samples = PreparedSamples(mixture, preparer, seed)
    return [preparer.chat.decode(samples[epoch, k].ids) for k in range(len(mixture))]  # type: ignore[union-attr]


def test_files_of_wordings_reach_the_prepared_samples(files: Path) -> None:
    preparer = small_preparer()
    listed = texts_of(preparer, files, ["Describe it.", "What is it, {media}?"], 0, seed=7)
    assert {"Describe it" in text for text in listed} == {True, False}
    for name in ("caption.txt", "tasks.yaml", "tasks.json"):
        assert texts_of(preparer, files, name, 0, seed=7) == listed, name
    assert texts_of(preparer, files, "caption.txt", 1, seed=7) != listed, "another epoch draws again"
    assert all("Describe it" in text for text in texts_of(preparer, files, "caption.txt", 0, seed=None))


def test_an_adapter_that_reads_the_instruction_reads_the_drawn_wording(files: Path) -> None:
    """InstructBLIP's Q-Former gets the words that the LLM gets."""
    reader = InstructionReader(byte_tokenizer(), 64)
    preparer = small_preparer(slots={"image": replace(slot(3), instruction=reader)})
    source = open_source(DataSource("captions.jsonl", prompts=["Describe it.", "What is it?"]), files)
    texts = set()
    for number in range(8):
        encoded = preparer(source[number], seed=3)
        ids, mask = (encoded.items[0][f"instruction.{name}"] for name in ("input_ids", "attention_mask"))
        text = reader.tokenizer.decode(ids[mask], skip_special_tokens=True)
        assert text in preparer.chat.decode(encoded.ids)
        texts.add(text)
    assert texts == {"Describe it.", "What is it?"}


def test_a_sample_without_a_wording_is_refused_by_name(files: Path) -> None:
    with pytest.raises(DataError, match=r"sample 'c0' .*captions.jsonl:1.*: the question has no words of its own"):
        small_preparer()(open_source(DataSource("captions.jsonl"), files)[0])


def test_wordings_change_fingerprint_and_lengths_and_only_where_they_are_set(files: Path) -> None:
    plain = open_source(DataSource("captions.jsonl"), files)
    short, long = (open_source(DataSource("captions.jsonl", prompts=[text]), files) for text in ("a", "b" * 41))
    assert len({reader.fingerprint() for reader in (plain, short, long)}) == 3
    assert list(long.lengths()[0] - short.lengths()[0]) == [40] * 8
    assert small_preparer().fingerprint() == small_preparer(wordings=Wordings()).fingerprint()
    assert small_preparer().fingerprint() != small_preparer(wordings=Wordings({"*": ["a"]})).fingerprint()


RECIPE = """
model:
  llm: {name: causal, path: x}
stages:
  - {name: one, train: {"llm.*": 1.0}, data: [{path: captions.jsonl, prompts: PROMPTS}]}
"""


def test_a_recipe_holds_the_wordings_of_its_files(files: Path) -> None:
    """So that a run folder is enough to resume a run and to use it."""
    path = files / "recipe.yaml"
    path.write_text(RECIPE.replace("PROMPTS", "./caption.txt"))
    assert load(path).stages[0].data[0].prompts == ["Describe it.", "What is it, {media}?"]
    path.write_text(RECIPE.replace("PROMPTS", "tasks.yaml"))
    assert load(path).stages[0].data[0].prompts == {
        "caption": ["Describe it.", "What is it, {media}?"],
        "vqa": ["{question}"],
    }


def test_stages_have_wordings_and_a_model_in_use_has_those_of_all(files: Path) -> None:
    path = files / "recipe.yaml"
    second = "{name: two, train: {'llm.*': 1.0}, data: [{path: captions.jsonl}], prompts: {vqa: 'S: {question}'}, "
    second += "system: {vqa: Short.}}"
    text = RECIPE.replace("prompts: PROMPTS}]}", "}], prompts: tasks.yaml, system: {vqa: Long., chat: Kind.}}")
    path.write_text(f"{text}  - {second}\n")
    recipe = load(path)
    one, two, both = (wordings_of(recipe, stage) for stage in (*recipe.stages, None))
    assert one.prompts == {"caption": ["Describe it.", "What is it, {media}?"], "vqa": ["{question}"]}
    assert two.prompts == {"vqa": ["S: {question}"]} and two.system == {"vqa": "Short."}
    assert both == Wordings({**one.prompts, **two.prompts}, {"vqa": "Short.", "chat": "Kind."}, in_use=True)
    assert not one.in_use and one.fingerprint() != two.fingerprint() != both.fingerprint()
    recipe.stages[1].prompts = ["{"]
    with pytest.raises(RecipeError, match=r"stages.two.prompts.*: the wording '{' cannot be read"):
        wordings_of(recipe, recipe.stages[1])


@pytest.mark.parametrize(
    ("prompts", "problem"),
    [
        ("nothing.txt", r"stages\[0\].data\[0\].prompts \(.*recipe.yaml:5\): the file of wordings .* does not exist"),
        ("[]", "there is no wording"),
        ("['']", "a wording is empty"),
        ("{caption: []}", r"prompts.caption .*there is no wording"),
        ("numbers.yaml", r"\[0\] \(.*numbers.yaml:1\): 1 is an int; expected str"),
    ],
)
def test_prompts_that_give_no_wording_are_refused_with_their_place(files: Path, prompts: str, problem: str) -> None:
    (files / "numbers.yaml").write_text("- 1\n")
    path = files / "recipe.yaml"
    path.write_text(RECIPE.replace("PROMPTS", prompts))
    with pytest.raises(RecipeError, match=problem):
        load(path)
