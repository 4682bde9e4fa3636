"""Boxes and points as text: the texts of the original codecs, where they are cut off, and back to pixels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_support import FOLDER
from PIL import Image

from omnivit.commands.generate import result_lines
from omnivit.contracts.fit import Fit
from omnivit.contracts.sample import Boxes, Media, Message, Points, Sample, Text, Token
from omnivit.data.box_codecs import CODECS, Area, Codec, codec_named, parse_any
from omnivit.data.boxes import BoxWriter, write_areas
from omnivit.data.prepare import Preparer
from omnivit.data.records import messages_from
from omnivit.engine import Generation, Request, Step
from omnivit.errors import DataError, PluginError, RecipeError
from omnivit.evaluate.conditions import reference
from omnivit.evaluate.run import gather
from omnivit.media.fit import Mode, fitted
from omnivit.model.build import ModelBlueprint, preparer_of
from omnivit.recipe import Recipe
from omnivit.run.assistant import Assistant
from omnivit.run.predict import predict
from omnivit.run.reply import Reply
from omnivit.run.trust import foreign_code

GOLDEN = json.loads((FOLDER / "boxes.json").read_text(encoding="utf-8"))
"""Texts of the original code; its `source` says which."""
STEPS = {"shikra": 1000, "llava": 100, "qwen_vl": 999, "cogvlm": 1000, "ferret": 1000, "minigpt_v2": 100}


def corners(areas: Sequence[Area], width: float, height: float) -> str:
    return " ".join(f"<{area[0] / width:.1f}|{area[1] / height:.1f}>" for area in areas)


OWN = Codec(corners, lambda text: [(0.0, 0.0)] if text else [])


def fit_of(size: list[int] | tuple[int, int], mode: Mode) -> Fit:
    return fitted((size[0], size[1]), mode, lambda source: (0, 0, source[1], source[0]), (224, 224))


def boxes_of(row: dict[str, Any]) -> tuple[tuple[float, float, float, float], ...]:
    return tuple(tuple(box) for box in row["boxes"])


def test_200_texts_are_those_of_the_original_code() -> None:
    assert len(GOLDEN["written"]) == 200
    for row in GOLDEN["written"]:
        boxes = Boxes(boxes_of(row))
        assert BoxWriter("shikra").text(boxes, fit_of(row["size"], "pad")) == row["shikra"]
        assert (
            BoxWriter("shikra").text(Points((tuple(row["point"]),)), fit_of(row["size"], "pad")) == row["shikra_point"]
        )
        assert BoxWriter("ferret").text(boxes, fit_of(row["size"], "squash")) == " ".join(row["ferret"])
        assert BoxWriter("minigpt_v2").text(boxes, fit_of(row["size"], "squash")) == "<delim>".join(row["minigpt_v2"])


def test_texts_are_read_as_the_original_code_reads_them() -> None:
    for codec, left, right in (("cogvlm", "[[", "]]"), ("shikra", "", "")):
        for text, areas in GOLDEN["read"][codec]:
            expected = areas if codec == "cogvlm" else areas[0]
            assert CODECS[codec].parse(f"a {left}{text}{right} b") == [tuple(area) for area in expected]


def test_published_texts_of_the_codecs_without_public_code_to_write_them() -> None:
    """Forms in QwenLM/Qwen-VL README.md, THUDM/CogVLM README.md, and records of llava_v1_5_mix665k.json."""
    texts = {
        "qwen_vl": "<ref>it</ref><box>(536,509),(588,602)</box>",
        "cogvlm": "Tell me what you see within the designated area [[086,540,400,760]] in the picture.",
        "llava": "Please provide a short description for this region: [0.0, 0.34, 0.4, 0.71].",
    }
    whole = fit_of((1000, 1000), "squash")
    for name, text in texts.items():
        (box,) = BoxWriter(name).read(text, whole)
        assert BoxWriter(name).text(Boxes((box,)), whole) in text


def test_the_table_of_docs_recipes() -> None:
    table = (Path(__file__).parents[2] / "docs/recipes.md").read_text(encoding="utf-8")
    for name in CODECS:
        text = BoxWriter(name).text(Boxes(((12, 40, 310, 260),)), fit_of((400, 400), "pad"))
        assert f"| `{name}` | `{text}`" in table


@pytest.mark.parametrize("name", CODECS)
def test_a_text_is_read_within_half_a_step(name: str) -> None:
    mode: Mode = "pad" if name in ("shikra", "llava") else "squash"
    for row in GOLDEN["written"]:
        fit = fit_of(row["size"], mode)
        height, width = row["size"]
        # the last step of `ferret` and `cogvlm` is the edge, as in the original
        inside = [box for box in boxes_of(row) if box[2] <= width * 0.9995 - 1 and box[3] <= height * 0.9995 - 1]
        text = BoxWriter(name).text(Boxes(tuple(inside)), fit) if inside else ""
        areas = BoxWriter(name).read(f"The box {text}.", fit)
        assert len(areas) == len(inside) == len(parse_any(text))
        left, top, right, bottom = fit.view
        sides = right - left, bottom - top
        for box, area in zip(inside, areas, strict=True):
            off = max(abs(a - b) / sides[k % 2] for k, (a, b) in enumerate(zip(box, area, strict=True)))
            assert off <= 0.5 / STEPS[name] + 1e-9, text


def test_texts_without_boxes_have_none() -> None:
    for text in ("", "[1]", "(3,4)", "[0.5,0.5,0.2,0.9]", "a [note], 12,13", "[[1,2,3]]", "{<1><2><3>}", "<box>"):
        assert parse_any(text) == [], text


def test_a_box_that_the_model_sees_in_part_is_refused_or_cut() -> None:
    cropped = Fit((40, 60), (10, 0, 50, 40), (32, 32))
    with pytest.raises(DataError, match=r"\[5, 0, 30, 20\] is partly outside .* x 10 to 50, y 0 to 40 of its 60 x 40"):
        BoxWriter("shikra").text(Boxes(((5, 0, 30, 20),)), cropped)
    assert BoxWriter("shikra", "clamp").text(Boxes(((5, 0, 30, 20),)), cropped) == "[0.000,0.000,0.500,0.500]"
    assert BoxWriter("shikra").text(Boxes(((9.5, 0, 50.5, 41),)), cropped) == "[0.000,0.000,1.000,1.000]"
    with pytest.raises(DataError, match=r"\[0, 0, 5, 20\] is outside of what"):
        BoxWriter("shikra", "clamp").text(Boxes(((0, 0, 5, 20),)), cropped)
    with pytest.raises(DataError, match="is outside of what"):
        BoxWriter("shikra", "clamp").text(Points(((5, 5),)), cropped)
    mirrored = Fit((40, 60), (50, 0, 10, 40), (32, 32))
    assert BoxWriter("shikra").text(Boxes(((10, 0, 20, 40),)), mirrored) == "[0.750,0.000,1.000,1.000]"
    assert BoxWriter("shikra").read("[0.750,0.000,1.000,1.000]", mirrored) == [(10, 0, 20, 40)]


def test_shares_are_of_the_source_image() -> None:
    part = Boxes(((0.0, 0.0, 0.5, 1.0),), unit="share")
    assert BoxWriter("shikra").text(part, fit_of((40, 80), "pad")) == "[0.000,0.250,0.500,0.750]"


def test_text_joins_the_text_around_it() -> None:
    parts = (Media("image", "a"), Media("image", "b"), Text("Is "), Boxes(((0, 0, 1, 1),), of=1), Text(" red?"))
    sample = Sample("s", (Message("user", parts), Message("assistant", (Text("a"), Text("b")))))
    fits = {0: fit_of((10, 10), "squash"), 1: fit_of((2, 2), "squash")}
    written = write_areas(sample, BoxWriter("shikra"), fits.__getitem__)
    assert written.messages[0].parts[2:] == (Text("Is [0.000,0.000,0.500,0.500] red?"),)
    assert written.messages[1] is sample.messages[1]
    with pytest.raises(DataError, match="boxes are in medium 2, but the sample has 2 media"):
        bad = Sample("s", (Message("user", (*parts[:2], Boxes(((0, 0, 1, 1),), of=2))),))
        write_areas(bad, BoxWriter("shikra"), fits.__getitem__)
    with pytest.raises(DataError, match="does not say how they are written"):
        write_areas(sample, None, fits.__getitem__)
    with pytest.raises(DataError, match=r"'qwen_vl'.* has no form for points"):
        BoxWriter("qwen_vl").text(Points(((1, 1),)), fits[0])


def test_declared_tokens_of_a_codec_are_parts() -> None:
    parts = (Media("image", "a"), Text("It is "), Boxes(((0, 0, 5, 10), (5, 0, 10, 10))), Text("."))
    sample = Sample("s", (Message("user", parts),))
    fit = fit_of((10, 10), "squash")
    plain = write_areas(sample, BoxWriter("qwen_vl"), lambda _: fit).messages[0].parts[1:]
    assert plain == (Text("It is <box>(0,0),(500,999)</box><box>(500,0),(999,999)</box>."),)
    tokens = (
        write_areas(sample, BoxWriter("qwen_vl"), lambda _: fit, {"<box>", "</box>", "<ref>"}).messages[0].parts[1:]
    )
    start, end = Token("<box>"), Token("</box>")
    boxes = [Text("(0,0),(500,999)"), Text("(500,0),(999,999)")]
    assert tokens == (Text("It is "), start, boxes[0], end, start, boxes[1], end, Text("."))
    answer = Sample("s", (Message("user", (Text("?"),)), Message("assistant", tokens)))
    assert reference(answer) == plain[0].text


def test_codecs_are_found_by_name() -> None:
    assert codec_named(f"{__name__}:OWN") is OWN
    with pytest.raises(RecipeError, match="no codec 'shikre'; did you mean 'shikra'"):
        codec_named("shikre")
    with pytest.raises(PluginError, match="is of type dict"):
        codec_named(f"{__name__}:STEPS")
    with pytest.raises(PluginError, match="cannot be imported: ModuleNotFoundError"):
        codec_named("no_such_module:OWN")


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ({"boxes": [[1, 2, 3]]}, "boxes[0] is a list; expected the numbers [x0, y0, x1, y1]"),
        ({"boxes": [[3, 2, 1, 4]]}, "expected the upper left corner"),
        ({"boxes": [[0, 0, 2, 1]], "unit": "share"}, "expected shares between 0 and 1"),
        ({"boxes": [[0, 0, 1, 1]], "unit": "cm"}, "expected 'pixel' or 'share'"),
        ({"boxes": [[0, 0, 1, 1]], "of": -1}, "expected the number of a medium"),
        ({"boxes": [[0, 0, 1, float("nan")]]}, "expected finite numbers"),
        ({"boxes": [[0, 0, 1, 1]], "label": "cat"}, "label"),
        ({"boxes": []}, "boxes is a list; expected a list of [x0, y0, x1, y1]"),
    ],
)
def test_bad_parts_are_refused_with_their_place(part: dict[str, Any], error: str) -> None:
    turns = [{"role": "user", "content": [{"type": "boxes", **part}]}]
    with pytest.raises(DataError, match=f"test: messages.0..content.0..*{re.escape(error)}"):
        messages_from(turns, None, "test")


def test_parts_of_records() -> None:
    content = [{"type": "points", "points": [[1, 2], [3, 4.5]], "of": 1}, {"type": "points", "points": "cloud.npy"}]
    (turn,) = messages_from([{"role": "user", "content": content}], None, "test")
    assert turn.parts == (Points(((1, 2), (3, 4.5)), 1), Media("points", "cloud.npy"))


@pytest.fixture
def answering(load_recipe: Callable[..., Recipe]) -> Assistant:
    recipe = load_recipe("model.boxes={codec: shikra}", "model.inputs.image.encoder.fit=pad")
    model = ModelBlueprint.of(recipe).build()
    return Assistant(model, preparer_of(model, recipe), recipe)


def asked(width: int, height: int, **keys: Any) -> Sample:
    where = {"type": "boxes", "boxes": [[0, 0, width / 2, height]], **keys}
    turns = [
        {"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (width, height))}, where]},
        {"role": "assistant", "content": [{"type": "text", "text": "It is at "}, where]},
    ]
    return Sample("s", messages_from(turns, None, "test"))


def test_boxes_of_a_sample_become_tokens_and_boxes_of_an_answer_pixels(
    answering: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare: Preparer = answering.preparer
    text = "[0.000,0.250,0.500,0.750]"
    resolved = prepare.resolved(asked(80, 40))
    assert reference(resolved) == f"It is at {text}"
    assert prepare.chat.decode(prepare(asked(80, 40)).ids).count(text) == 2
    with pytest.raises(DataError, match=r"sample 's': boxes in medium 0: .* is partly outside"):
        prepare(asked(80, 40, boxes=[[0, 0, 90, 40]]))
    with pytest.raises(DataError, match="Boxes, which must be text first"):
        reference(asked(80, 40))
    assert "boxes=shikra,error" in prepare.fingerprint()
    questions = gather([asked(80, 40)], None, answering)  # type: ignore[arg-type]
    assert reference(questions.samples[0]) == f"It is at {text}"

    def submit(request: Request) -> Generation:
        generation = Generation(request, lambda _: None)
        for byte in text.encode():  # the bytes tokenizer
            generation.put(Step(byte))
        generation.end("stop")
        return generation

    monkeypatch.setattr(answering.engine, "submit", submit)
    reply = answering.respond(asked(80, 40).messages[:1], max_new_tokens=1)
    assert reply.text == text
    assert reply.boxes == ((0.0, 0.0, 40.0, 40.0),)
    assert answering.respond([Message("user", (Text("?"),))], max_new_tokens=1).boxes == ()


def test_batch_inference_reads_areas_as_single_answers_do(
    answering: Assistant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the order of the text; in pixels of the last image of the question, whatever the reference contains."""
    text = "[0.500,0.500] in [0.000,0.250,0.500,0.750]"
    question, answer = asked(80, 40).messages
    image = Media("image", Image.new("RGB", (10, 90)))
    sample = Sample("s", (question, replace(answer, parts=(*answer.parts, image))))

    class Single(list[Sample]):
        def where(self, index: int) -> str:
            return f"line {index}"

        def fingerprint(self) -> str:
            return ""

    monkeypatch.setattr(answering, "generate", lambda prompts, *_: torch.tensor([list(text.encode())] * len(prompts)))
    ended = predict(answering, Single([sample]), tmp_path / "out.jsonl", {}, 50, 2, lambda *_: None)
    record = json.loads((tmp_path / "out.jsonl").read_text())
    assert ended.errors == 0 and record["prediction"] == text
    assert record["areas"] == [[40.0, 20.0], [0.0, 0.0, 40.0, 40.0]]
    (reply,) = answering.replies([answering.prepare(sample, max_new_tokens=50)], 50)
    assert (reply.points, reply.boxes) == (((40.0, 20.0),), ((0.0, 0.0, 40.0, 40.0),))
    assert [list(area) for area in reply.areas] == record["areas"]


def test_commands_print_boxes_in_pixels() -> None:
    reply = Reply("a", Message("assistant", (Text("a"),)), ()).with_areas([(1.0, 2.26, 3.0, 4.0), (5.0, 6.0)])
    assert result_lines(reply) == ["boxes: [[1.0, 2.3, 3.0, 4.0]]", "points: [[5.0, 6.0]]"]
    assert result_lines(replace(reply, boxes=(), points=())) == []


def test_a_codec_of_ones_own_is_code_that_a_recipe_brings(load_recipe: Callable[..., Recipe]) -> None:
    recipe = load_recipe(f"model.boxes={{codec: '{__name__}:OWN', outside: clamp}}")
    assert any("model.boxes.codec" in line for line in foreign_code(recipe))
    assert preparer_of(ModelBlueprint.of(recipe).build(), recipe).boxes == BoxWriter(f"{__name__}:OWN", "clamp")
    wrong = load_recipe("model.boxes={codec: shikre}")
    with pytest.raises(RecipeError, match=r"model.boxes.codec.*no codec 'shikre'"):
        preparer_of(ModelBlueprint.of(wrong).build(), wrong)


class Blind:
    """A processor that does not say what the model sees."""

    def __call__(self, media: Media) -> dict[str, torch.Tensor]:
        return {"rows": torch.zeros(1, len(str(media)))}

    def length(self, item: dict[str, torch.Tensor]) -> int:
        return len(item["rows"])

    def fingerprint(self) -> str:
        return ""


def test_boxes_of_an_input_that_does_not_say_what_it_sees(answering: Assistant) -> None:
    slot = replace(answering.preparer.slots["image"], processors=(Blind(),))
    prepare = replace(answering.preparer, slots={"image": slot})
    with pytest.raises(DataError, match="the encoder of the input 'image' does not say which part"):
        prepare(asked(80, 40))
