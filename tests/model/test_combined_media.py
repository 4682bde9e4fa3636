"""`combine`: the media of one turn become one, whose tokens are the sum or the mean of theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from prepare_support import sample, slot, small_preparer
from small_tokenizers import metaspace
from torch import Tensor

from omnivit.contracts.sample import Media, Message, Sample, Text
from omnivit.data.chat import Chat
from omnivit.data.collate import collate
from omnivit.errors import DataError, RecipeError
from omnivit.model.build import load_model, preparer_of
from omnivit.model.omni import OmniModel
from omnivit.recipe import Recipe
from omnivit.run.assistant import Assistant

Load = Callable[..., Recipe]

DETAIL = "model.inputs.detail={encoder: {share: image}, adapter: {share: image}, combine: COMBINE}"


def combining(load_recipe: Load, combine: str) -> Recipe:
    return load_recipe(f"model.inputs.image.combine={combine}", DETAIL.replace("COMBINE", combine))


def tokens_of(model: OmniModel, recipe: Recipe, medium: Media) -> Tensor:
    """[L, D] the tokens of a medium alone."""
    encoded = preparer_of(model, recipe)(Sample("s", (Message("user", (medium,)),)), generate=True)
    batch = collate([encoded], tuple(model.encoders), 0)
    return model.encode(batch)[medium.slot].values[0]


@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_the_tokens_of_a_turns_media_are_combined(load_recipe: Load, data_root: Path, combine: str) -> None:
    """PandaGPT: `torch.cat(features).sum(dim=0)` over the projected embeddings of all media (yxuansu/PandaGPT,
    code/model/openllama.py, `extract_multimodal_feature`); tolerance 1e-6."""
    recipe = combining(load_recipe, combine)
    model = load_model(recipe)
    preparer = preparer_of(model, recipe)
    red, blue, green = (Media(s, str(data_root / f"{c}.png")) for s, c in
                        (("image", "red"), ("detail", "blue"), ("image", "green")))  # fmt: skip
    question = Message("user", (red, Text("\n"), blue, Text("\n"), green, Text("\nWhich?")))
    again = Message("user", (Text("And this? "), red))
    answers = [Message("assistant", (Text(text),)) for text in ("red", "yes")]
    several = preparer(Sample("several", (question, answers[0], again, answers[1])))
    single = preparer(Sample("one", (Message("user", (red, Text("\nWhich?"))), answers[0], again, answers[1])))
    assert several.ids.tolist() == single.ids.tolist(), "as long as with one medium"
    assert [span.length for span in several.spans] == [4] * 4
    for left in (False, True):
        batch = collate([single, several, single], tuple(model.encoders), 0, pad_left=left)
        embeds = model.embed(batch)[0]
        features = [tokens_of(model, recipe, medium) for medium in (red, blue, green)]
        expected = torch.stack(features).sum(dim=0) / (3 if combine == "mean" else 1)
        first, second = several.spans[0].start, several.spans[3].start
        torch.testing.assert_close(embeds[1, first : first + 4], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(embeds[1, second : second + 4], features[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(embeds[0, first : first + 4], features[0], rtol=0, atol=1e-6)
        text = batch.route[1] == 0
        torch.testing.assert_close(embeds[1, text], embeds[0, text], rtol=0, atol=0)


def test_all_combined_media_are_trained_on_and_answered_about(load_recipe: Load, data_root: Path) -> None:
    recipe = load_recipe(
        "model.inputs.image.combine=sum",
        "model.inputs.detail={encoder: {name: clip, layer: -1, config: {model_type: clip_vision_model, hidden_size: 16,"
        " intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, image_size: 32, patch_size: 16}},"
        " adapter: {name: linear}, combine: sum}",
    )
    model = load_model(recipe).requires_grad_(True)
    parts = tuple(Media(slot, str(data_root / f"{name}.png")) for slot, name in (("image", "red"), ("detail", "blue")))
    encoded = preparer_of(model, recipe)(
        Sample("s", (Message("user", (*parts, Text("Which?"))), Message("assistant", (Text("red"),))))
    )
    batch = collate([encoded], tuple(model.encoders), 0)
    model(batch).logits.sum().backward()
    for adapter in model.adapters.values():
        assert all(bool(parameter.grad.abs().sum() > 0) for parameter in adapter.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    assistant = Assistant(model, preparer_of(model, recipe), recipe)
    red, blue = data_root / "red.png", data_root / "blue.png"
    given = ({"image": red, "detail": blue}, {"image": red}, {"detail": blue}, {"image": blue, "detail": red}, {})
    answers = {assistant.ask("Which?", max_new_tokens=12, **media) for media in given}
    assert len(answers) == len(given)


def test_media_with_different_numbers_of_tokens_are_refused_by_name() -> None:
    slots = {"image": slot(6), "audio": slot(4)}
    preparer = small_preparer(slots={name: replace(each, combine="sum") for name, each in slots.items()})
    with pytest.raises(DataError, match=r"sample 's'.*a.png \(image\) has 6 tokens and b.wav \(audio\) 4"):
        preparer(sample(Media("image", "a.png"), Media("audio", "b.wav"), "What?"))
    assert small_preparer(slots=slots).fingerprint() != preparer.fingerprint()


def test_a_template_writes_around_combined_media_once() -> None:
    """PandaGPT: `### Human: <Img>`, the sum of all media, `</Img> question`."""
    slots = {name: replace(slot(1), combine="sum") for name in ("image", "audio")}
    preparer = small_preparer(chat=Chat(metaspace(), "pandagpt"), slots=slots)
    image, audio = Media("image", "a.png"), Media("audio", "b.wav")
    alone, both = (preparer(sample(*media, "What is it?")) for media in ((image,), (image, audio)))
    assert both.ids.tolist() == alone.ids.tolist() and both.labels.tolist() == alone.labels.tolist()
    assert [(span.slot, span.start, span.leads) for span in both.spans] == [
        ("image", alone.spans[0].start, True),
        ("audio", alone.spans[0].start, False),
    ]
    assert preparer.chat.decode(both.ids).count("<Img>") == 1


EXPERT = "model.inputs.image.adapter={name: chain, steps: [{name: linear}, {name: visual_expert}]}"
TWO = (
    "model.inputs.image=[{encoder: {name: timm, model: test_vit}, adapter: {name: linear}, combine: sum},"
    " {encoder: {share: 'image[0]'}, adapter: {name: linear}}]"
)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ([EXPERT, "model.inputs.image.combine=sum"], "adds the tokens of several media, but the adapter VisualExpert"),
        ([TWO], "the branches of an input need the same `combine`"),
    ],
)
def test_what_cannot_be_combined_is_refused(load_recipe: Load, overrides: list[str], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        recipe = load_recipe(*overrides)
        preparer_of(load_model(recipe), recipe)
