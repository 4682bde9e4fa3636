"""Options of encoders that change between stages: what is prepared and encoded, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from video_files import write_clip

from omnivit import load as load_run
from omnivit.contracts.sample import Media, Message, Sample, Text
from omnivit.errors import CheckpointError, RecipeError
from omnivit.model.build import ModelBlueprint, preparer_of
from omnivit.recipe import Recipe
from omnivit.run import folder, provenance
from omnivit.run.runner import train
from omnivit.train import checkpoint

STAGED = "stages.instruct.inputs={image: {encoder: {fit: pad, image_size: 64}}}"
SHORT = ("stages.align.steps=2", "stages.instruct.steps=4", "checkpoint_every=1", "keep.last=9")


def sample(width: int = 80, height: int = 40) -> Sample:
    image = Image.new("RGB", (width, height), (200, 30, 30))
    return Sample("s", (Message("user", (Media("image", image), Text("?"))), Message("assistant", (Text("a"),))))


def test_each_stage_prepares_and_encodes_with_its_own_options(load_recipe: Callable[..., Recipe]) -> None:
    recipe = load_recipe(STAGED, "model.inputs.image.encoder.lora={r: 2, targets: [q_proj]}")
    model = ModelBlueprint.of(recipe).build()
    names = {name: value.shape for name, value in model.state_dict().items()}
    results = []
    for stage in (recipe.stages[0], recipe.stages[1], recipe.stages[0], None):  # what a stage changed does not stay
        prepare = preparer_of(model, recipe, stage)
        encoded = prepare(sample())
        encoder = model.slot_encoders("image")[0]
        item = encoded.items[0]
        features = encoder({name: value[None] for name, value in item.items()})
        assert features.values.shape[1] == encoded.spans[0].length
        results.append((features.values.shape[1], tuple(item["pixels"].shape), prepare.fingerprint()))
    plain, padded = (4, (3, 32, 32)), (16, (3, 64, 64))
    assert [result[:2] for result in results] == [plain, padded, plain, padded]
    assert results[0] == results[2] != results[1] == results[3]
    assert names == {name: value.shape for name, value in model.state_dict().items()}
    unstaged = load_recipe("model.inputs.image.encoder.lora={r: 2, targets: [q_proj]}")
    assert preparer_of(ModelBlueprint.of(unstaged).build(), unstaged, unstaged.stages[0]).fingerprint() == results[0][2]


def test_a_run_resumes_inside_its_second_stage_and_answers_with_it(
    load_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = load_recipe(STAGED, *SHORT)
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    for run in (undisturbed, disturbed):
        folder.create(run, recipe)
    train(recipe, undisturbed)
    train(recipe, disturbed)
    for path in sorted((disturbed / folder.CHECKPOINTS).glob("01-*")):  # as if it was killed after the second step
        if checkpoint.Checkpoint(path).state["step"] > 2:
            path.rename(tmp_path / path.name)
    assert len(list(tmp_path.glob("01-instruct-step-*"))) == 2
    run, _ = train(recipe, disturbed, resume=True)
    ends = [checkpoint.of_stage(path / folder.CHECKPOINTS, 1) for path in (undisturbed, disturbed)]
    for first, second in ((ends[0].weights(), ends[1].weights()), (ends[0].optimizer(), ends[1].optimizer())):
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert run.preparer(sample()).spans[0].length == 16
    assert load_run(undisturbed, device="cpu").preparer(sample(), generate=True).spans[0].length == 16
    record = provenance.read(undisturbed / provenance.PROVENANCE)
    assert record["recipe"]["stages"][1]["inputs"]["image"]["encoder"] == {"fit": "pad", "image_size": 64}
    assert "\ninstruct: " in record["preparation"]
    changed = load_recipe(STAGED.replace("64", "48"), *SHORT)
    with pytest.raises(CheckpointError, match=r"recipe.stages\[1\].inputs.image.encoder.image_size: was 64, is 48"):
        train(changed, disturbed, resume=True)


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("stages.instruct.inputs={image: {encoder: {layer: -1}}}",
         "stages[1].inputs.image.encoder.layer (command line): a stage cannot change this option of 'clip'; Available: "
         "fill, fit, image_size. Set it in `model.inputs`."),
        ("stages.instruct.inputs={image: {encoder: {fitt: pad}}}", "did you mean 'fit'? Available: fill, fit"),
        ("stages.instruct.inputs={image: {encoder: {fit: pat}}}", "stages[1].inputs.image.encoder.fit"),
        ("stages.instruct.inputs={image: {adapter: {depth: 3}}}",
         "stages[1].inputs.image.adapter.depth (command line): a stage cannot change this option of 'mlp'; it has no "
         "option that may."),
        ("stages.instruct.inputs={sound: {encoder: {fit: pad}}}", "the model has no such input; Available: image"),
        ("stages.instruct.inputs={image: [{encoder: {fit: pad}}]}", "is a list, but the input has one encoder"),
        ("stages.instruct.inputs={image: {encoder: {name: timm}}}", "stages[1].inputs.image.encoder.name"),
    ],
)  # fmt: skip
def test_what_a_stage_cannot_change_is_refused_with_its_place(
    load_recipe: Callable[..., Recipe], override: str, error: str
) -> None:
    recipe = load_recipe(override)
    with torch.device("meta"):
        model = ModelBlueprint.of(recipe).build()
    with pytest.raises(RecipeError, match=re.escape(error)):
        preparer_of(model, recipe, recipe.stages[1])


def test_options_of_an_encoder_inside_another_and_of_one_of_several(
    load_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    base = load_recipe()
    clip = dict(base.model.inputs["image"].encoder)  # type: ignore[union-attr]
    video = {"encoder": {"name": "video", "frames": 4, "encoder": clip}, "adapter": {"name": "linear"}}
    pair = [{"encoder": clip, "adapter": {"name": "linear"}}, {"encoder": clip, "adapter": {"name": "linear"}}]
    staged = {
        "video": {"encoder": {"frames": 2, "encoder": {"fit": "pad", "fill": "white"}}},
        "image": [{}, {"encoder": {"image_size": 64}}],
    }
    recipe = load_recipe(f"model.inputs.video={video!r}", f"model.inputs.image={pair!r}", f"stages.1.inputs={staged!r}")
    model = ModelBlueprint.of(recipe).build()
    write_clip(tmp_path / "clip.mp4", 6, (40, 80))
    turn = Message("user", (Media("video", str(tmp_path / "clip.mp4")), *sample().messages[0].parts))
    both = Sample("s", (turn, sample().messages[1]))
    lengths = []
    pixels = []
    for stage in recipe.stages:
        encoded = preparer_of(model, recipe, stage)(both)
        lengths.append([span.length for span in encoded.spans])
        pixels.append(encoded.items[0]["pixels"])
    assert lengths == [[16, 8], [8, 20]]
    assert pixels[1].shape == (2, 3, 32, 32)
    corner = pixels[1][0, :, 0, 0]
    white = (1 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor([0.26862954, 0.26130258, 0.27577711])
    torch.testing.assert_close(corner, white, rtol=0, atol=1e-5)
    wrong = load_recipe(f"model.inputs.image={pair!r}", "stages.1.inputs={image: {encoder: {fit: pad}}}")
    with pytest.raises(RecipeError, match=r"stages\[1\].inputs.image .*: the input has 2 encoders"):
        preparer_of(ModelBlueprint.of(wrong).build(), wrong, wrong.stages[1])
