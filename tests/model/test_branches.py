"""Inputs of several branches and modules that inputs share, from the recipe to the answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests_support import picture_record, text_record, write_jsonl
from torch import Tensor, nn

from omnivit import cli
from omnivit.contracts.adapter import Adapter, Instruction, same_length
from omnivit.contracts.batch import Batch
from omnivit.contracts.features import Features
from omnivit.data.collate import collate
from omnivit.data.sources import open_mixture
from omnivit.errors import RecipeError
from omnivit.model.build import load_model, preparer_of
from omnivit.model.omni import OmniModel
from omnivit.recipe import Recipe, load
from omnivit.run import assistant, folder, loading
from omnivit.run.check import check
from omnivit.run.runner import train
from omnivit.train import checkpoint

Load = Callable[..., Recipe]

SMALL = (
    "{model_type: clip_vision_model, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,"
    " num_attention_heads: 2, image_size: 32, patch_size: 8}"
)
CLIP = (
    "{name: clip, layer: -2, config: {model_type: clip_vision_model, hidden_size: 24, intermediate_size: 48,"
    " num_hidden_layers: 3, num_attention_heads: 2, image_size: 32, patch_size: 16}}"
)
FIRST = f"{{encoder: {CLIP}, adapter: {{name: mlp, depth: 2}}}}"
SAME_ENCODER = "{encoder: {share: 'image[0]'}, adapter: {name: linear}}"
OTHER_ENCODER = f"{{encoder: {{name: clip, layer: -1, config: {SMALL}}}, adapter: {{name: linear}}}}"
THREE = f"model.inputs.image=[{FIRST}, {SAME_ENCODER}, {OTHER_ENCODER}]"
"""Rows of a picture: 4 of the first, 4 of the second, 16 of the third."""
SHARED = "model.inputs.detail={encoder: {share: image}, adapter: {share: image}}"
QUICK = ["stages.align.steps=2", "stages.instruct.steps=2", "checkpoint_every=1"]


@dataclass
class NarrowConfig:
    """Nothing to say."""


class Narrow(Adapter):
    """Keeps the width of the encoder's rows."""

    Config = NarrowConfig

    def __init__(self, config: Any, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.width, self.length = width, same_length

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        raise NotImplementedError


def batch_of(model: OmniModel, recipe: Recipe, numbers: tuple[int, ...] = (0, 1, 21)) -> Batch:
    """Some samples of the first stage: by default two pictures' and one of text alone."""
    mixture, preparer = open_mixture(recipe.stages[0].data, recipe.data.root), preparer_of(model, recipe)
    return collate([preparer(mixture[n]) for n in numbers], tuple(recipe.model.inputs), preparer.chat.pad_id)


def calls(module: nn.Module) -> list[int]:
    """Grows by the number of media at each call of an encoder."""
    found: list[int] = []
    module.register_forward_hook(lambda *given: found.append(len(given[2].values)))
    return found


@pytest.fixture
def both_inputs(data_root: Path) -> str:
    """The override for a first stage over both.jsonl: six questions about `image`, six about `detail`, one text."""
    records = [picture_record(f"p{i}", "red.png", "red") for i in range(12)]
    for record in records[6:]:
        record["messages"][0]["content"][0] = {"type": "detail", "detail": "blue.png"}
    write_jsonl(data_root / "both.jsonl", [*records, text_record("t", "Say it", "it")])
    return "stages.align.data.0.path=both.jsonl"


# -- several branches --------------------------------------------------------------------------------------------------


def test_rows_of_the_branches_stand_one_after_the_other(load_recipe: Load) -> None:
    recipe = load_recipe(THREE)
    model = load_model(recipe)
    batch = batch_of(model, recipe)
    assert batch.media["image"].lengths.tolist() == [24, 24]
    rows = model.encode(batch)["image"]
    first, second, third = model.branches("image")
    assert rows.values.shape == (2, 24, 32) and rows.mask.all() and rows.grid is None
    items = batch.media["image"].items
    shown = first.encoder({"pixels": items["0.pixels"]}), third.encoder({"pixels": items["1.pixels"]})
    parts = first.adapter(shown[0]), second.adapter(shown[0]), third.adapter(shown[1])
    assert torch.equal(rows.values, torch.cat([part.values for part in parts], dim=1))
    embeds, _ = model.embed(batch)
    assert torch.equal(embeds[0, batch.route[0] == 1], rows.values[0])


def test_an_encoder_runs_once_for_the_branches_that_share_it(load_recipe: Load) -> None:
    recipe = load_recipe(THREE)
    model = load_model(recipe)
    first, second, third = model.branches("image")
    assert first.encoder is second.encoder and third.encoder is not first.encoder
    runs = calls(first.encoder), calls(third.encoder)
    batch = batch_of(model, recipe)
    assert batch.media["image"].items.keys() == {"0.pixels", "1.pixels"}
    model(batch)
    assert runs == ([2], [2])
    names = {name.split(".tower")[0] for name, _ in model.named_parameters() if name.startswith("encoders.")}
    assert names == {"encoders.image.0", "encoders.image.2"}


def test_trains_resumes_and_answers(load_recipe: Load, data_root: Path, tmp_path: Path) -> None:
    recipe, run = load_recipe(THREE, *QUICK), tmp_path / "run"
    before = {name: value.clone() for name, value in load_model(recipe).named_parameters()}
    folder.create(run, recipe)
    _, results = train(recipe, run)
    assert [result.steps for result in results] == [2, 2]
    last = checkpoint.of_stage(run / folder.CHECKPOINTS, 1)
    adapters = {name for name in last.weights() if name.startswith("adapters.")}
    layers = {"0.layers.0", "0.layers.2", "1.layers.0", "2.layers.0"}
    assert adapters == {f"adapters.image.{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    assert all(not torch.equal(last.weights()[name], before[name]) for name in adapters)

    copy = tmp_path / "killed"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / folder.CHECKPOINTS / last.path.name)
    train(folder.reopen(copy), copy, resume=True)
    again = checkpoint.of_stage(copy / folder.CHECKPOINTS, 1)
    assert again.weights().keys() == last.weights().keys()
    assert all(torch.equal(value, again.weights()[name]) for name, value in last.weights().items())

    opened = loading.load(run)
    pictures = [{"image": str(data_root / f"{name}.png")} for name in ("red", "blue")]
    assert isinstance(opened.ask("Which colour?", max_new_tokens=3, **pictures[0]), str)
    full = [_score(opened, picture) for picture in pictures]
    assert not torch.equal(*full)
    for number, branch in enumerate(opened.model.branches("image")):
        kept = {name: value.clone() for name, value in branch.adapter.state_dict().items()}
        branch.adapter.load_state_dict({name: value + 0.5 for name, value in kept.items()})
        assert not torch.equal(_score(opened, pictures[0]), full[0]), f"branch {number} has no part in the answer"
        branch.adapter.load_state_dict(kept)
    assert torch.equal(_score(opened, pictures[0]), full[0])


def _score(opened: assistant.Assistant, picture: dict[str, str]) -> Tensor:
    question = [{"type": "image", **picture}, {"type": "text", "text": "Which colour?"}]
    answer = [{"type": "text", "text": "red"}]
    return opened.score([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def test_one_branch_may_train_alone(load_recipe: Load, tmp_path: Path) -> None:
    stage = "{name: one, data: [{path: train.jsonl}], train: {'adapters.image.1.*': 1e-2}, steps: 1, batch_size: 2}"
    run, _ = train(load_recipe(THREE, f"stages=[{stage}]"), tmp_path / "run")
    weights = checkpoint.of_stage(run.checkpoints, 0).weights()
    assert weights.keys() == {"adapters.image.1.layers.0.weight", "adapters.image.1.layers.0.bias"}


def test_a_branch_starts_as_it_would_alone_and_not_as_its_neighbour(load_recipe: Load) -> None:
    def parameters(*overrides: str) -> dict[str, Tensor]:
        return dict(load_model(load_recipe(*overrides)).named_parameters())

    alone, listed, three = parameters(), parameters(f"model.inputs.image=[{FIRST}]"), parameters(THREE)
    assert listed.keys() == alone.keys()  # a list of one is no list
    assert all(torch.equal(value, listed[name]) for name, value in alone.items())
    for name, value in alone.items():
        owner, _, rest = name.partition(".image.")
        assert torch.equal(value, three[f"{owner}.image.0.{rest}" if rest else name]), name
    twins = parameters(f"model.inputs.image=[{FIRST}, {FIRST}]")
    for kind in ("encoders", "adapters"):
        mine = [name for name in twins if name.startswith(f"{kind}.image.0.") and twins[name].ndim > 1]
        assert mine
        assert not any(torch.equal(twins[name], twins[name.replace(".0.", ".1.", 1)]) for name in mine)


# -- shared modules ----------------------------------------------------------------------------------------------------


def test_inputs_share_one_module_and_one_set_of_parameters(load_recipe: Load, both_inputs: str) -> None:
    recipe = load_recipe(SHARED, both_inputs)
    model, alone = load_model(recipe), load_model(load_recipe())
    assert [b.encoder is model.encoders["image"] for b in model.branches("detail")] == [True]
    assert model.adapters["detail"] is model.adapters["image"]
    assert dict(model.named_parameters()).keys() == dict(alone.named_parameters()).keys()
    values = dict(model.named_parameters())
    assert all(torch.equal(value, values[name]) for name, value in alone.named_parameters())
    runs = calls(model.encoders["image"])
    batch = batch_of(model, recipe, (0, 6, 7, 12))
    assert {slot: media.samples for slot, media in batch.media.items()} == {"image": (0,), "detail": (1, 2)}
    model.adapters.requires_grad_(True)
    gradients = []
    for numbers in ((0, 6, 7, 12), (6, 12), (12,)):
        model.zero_grad()
        model.train()(batch_of(model, recipe, numbers)).logits.square().sum().backward()
        gradients.append([p.grad for p in model.adapters.parameters()])
    assert runs == [1, 2, 1]
    assert all(grad is not None and grad.any() for grads in gradients[:2] for grad in grads)
    assert all(grad is not None and not grad.any() for grad in gradients[2])  # text alone: nothing, but not none (DDP)


def test_a_shared_module_trains_by_its_first_name(load_recipe: Load, both_inputs: str, tmp_path: Path) -> None:
    recipe = load_recipe(SHARED, both_inputs, *QUICK)
    run, _ = train(recipe, tmp_path / "run")
    names = checkpoint.of_stage(run.checkpoints, 0).weights().keys()
    assert {name.split(".")[1] for name in names} == {"image"}
    with pytest.raises(RecipeError, match=r"the pattern 'adapters\.detail\.\*' matches no parameter"):
        check(load_recipe(SHARED, both_inputs, "stages.align.train={'adapters.detail.*': 1e-2}"))


def test_an_encoder_alone_may_be_shared(load_recipe: Load) -> None:
    adapter = "{encoder: {share: image}, adapter: {name: linear}}"
    model = load_model(load_recipe(f"model.inputs.detail={adapter}"))
    assert model.encoders["detail"] is model.encoders["image"]
    assert model.adapters["detail"] is not model.adapters["image"]
    names = {name.split(".")[1] for name, _ in model.named_parameters() if name.startswith("adapters.")}
    assert names == {"image", "detail"}


# -- refusals ----------------------------------------------------------------------------------------------------------

NARROW = f"{{name: '{__name__}:Narrow'}}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.inputs.detail={encoder: {share: imag}, adapter: {name: mlp}}",
            r"model\.inputs\.detail\.encoder \(command line\): `share: imag` must be the only key.*Available: image\.",
        ),
        (
            "model.inputs.detail={encoder: {share: image, image_size: 64}, adapter: {name: mlp}}",
            r"model\.inputs\.detail\.encoder\.image_size \(command line\): `image_size` cannot stand beside `share`",
        ),
        (
            f"model.inputs.image=[{SAME_ENCODER}, {FIRST}]",
            r"model\.inputs\.image\[0\]\.encoder \(command line\): .*name an earlier input.*Available: none\.",
        ),
        (
            f"model.inputs.image=[{FIRST}, {{encoder: {{share: image}}, adapter: {{name: mlp}}}}]",
            r"model\.inputs\.image\[1\]\.encoder \(command line\): .*Available: image\[0\]\.",
        ),
        (
            f"model.inputs.detail={{encoder: {{name: clip, config: {SMALL}, layer: -1}}, adapter: {{share: image}}}}",
            r"model\.inputs\.image\.adapter: the adapter takes tokens of width 24, but the encoder "
            r"model\.inputs\.detail\.encoder.*returns tokens of width 16",
        ),
        (
            f"model.inputs.image=[{FIRST}, {{encoder: {{share: 'image[0]'}}, adapter: {NARROW}}}]",
            r"model\.inputs\.image\[1\]\.adapter: .* tokens of width 24, but the LLM takes 32\. .*\{name: linear\}",
        ),
        (f"model.inputs.keys={FIRST}", r"inputs\.keys \(command line\): the input cannot be named 'keys', because"),
        (f"model.inputs.training={FIRST}", r"model\.inputs\.training .*the input cannot be named 'training'"),
    ],
)
def test_what_does_not_fit_is_refused(load_recipe: Load, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check(load_recipe(override), with_data=False)


def test_an_empty_list_is_refused(load_recipe: Load) -> None:
    with pytest.raises(RecipeError, match=r"model\.inputs\.image \(command line\): is empty; expected an encoder"):
        load_recipe("model.inputs.image=[]")


@pytest.mark.parametrize("tokenizer", ["elsewhere", None])
def test_two_tokenizers_for_one_instruction_are_refused(load_recipe: Load, tokenizer: str | None) -> None:
    recipe = load_recipe(THREE)
    model = load_model(recipe)
    adapters = [branch.adapter for branch in model.branches("image")]
    adapters[0].instruction_tokenizer, adapters[2].instruction_tokenizer = "bytes", tokenizer
    if tokenizer is None:  # one reads it, the others do not
        batch = batch_of(model, recipe)
        assert batch.media["image"].items["instruction.input_ids"].shape[1] == 128
        assert model(batch).logits.isfinite().all()
        return
    with pytest.raises(RecipeError, match=r"model\.inputs\.image: its adapters read the instruction with different"):
        preparer_of(model, recipe)


def test_a_branch_that_cannot_change_the_llm_is_named(load_recipe: Load) -> None:
    steps = "[{name: linear}, {name: gated_cross_attention, layer_interval: 9}]"
    last = f"{{encoder: {{share: 'image[0]'}}, adapter: {{name: chain, steps: {steps}}}}}"
    with pytest.raises(
        RecipeError, match=r"^model\.inputs\.image\[1\]\.adapter: gated_cross_attention: `layer_interval: 9`"
    ):
        check(load_recipe(f"model.inputs.image=[{FIRST}, {last}]"), with_data=False)


# -- the command line --------------------------------------------------------------------------------------------------


def test_check_prints_every_branch(recipe_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(recipe_file), THREE]) == 0
    lines = [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
    parts = [line for line in lines if line.startswith(("encoder", "adapter"))]
    said = [line.partition(" parameters")[0].rpartition(" ")[0] for line in parts]
    assert said == [
        "encoder image: clip",
        "adapter image: mlp",
        "encoder image: shared with image[0]",
        "adapter image: linear",
        "encoder image: clip",
        "adapter image: linear",
    ]
    assert parts[0].split()[3:] == parts[2].split()[5:]  # the shared one's size
    assert parts[-1].endswith(f" {16 * 32 + 32} parameters, 24 tokens per medium")


def test_overrides_reach_a_branch(recipe_file: Path, load_recipe: Load) -> None:
    written = recipe_file.read_text(encoding="utf-8")
    single = "    image:\n      encoder:"
    assert single in written
    recipe_file.write_text(written.replace(single, "    image:\n    - encoder:"), encoding="utf-8")
    for path in ("image.0", "image[0]"):
        assert load_recipe(f"model.inputs.{path}.adapter.depth=3").model.inputs["image"][0].adapter["depth"] == 3
    model = load_model(load_recipe("model.inputs.image.0.adapter.depth=3", "model.inputs.image.0.encoder.layer=-1"))
    assert len(model.adapters["image"].layers) == 5
    assert len(model.encoders["image"].tower.encoder.layers) == 3
    with pytest.raises(
        RecipeError, match=r"model\.inputs\.image\[1\] \(command line\): there is no such item in a list of length 1"
    ):
        load_recipe("model.inputs.image.1.adapter.depth=3")


@pytest.mark.parametrize("listed", [False, True])
def test_another_plugin_replaces_the_options_of_the_one_before(recipe_file: Path, listed: bool) -> None:
    if listed:
        written = recipe_file.read_text(encoding="utf-8")
        recipe_file.write_text(written.replace("    image:\n      enc", "    image:\n    - enc"), encoding="utf-8")
    slot = "model.inputs.image.0" if listed else "model.inputs.image"

    def adapter(*overrides: str) -> dict[str, Any]:
        found = load(recipe_file, overrides).model.inputs["image"]
        return (found[0] if isinstance(found, list) else found).adapter

    assert adapter() == {"name": "mlp", "depth": 2}
    assert adapter(f"{slot}.adapter.name=linear") == {"name": "linear"}
    assert adapter(f"{slot}.adapter.name=mlp") == {"name": "mlp", "depth": 2}
    assert adapter(f"{slot}.adapter={{share: other}}") == {"share": "other"}
    assert adapter(f"{slot}.adapter={{share: other}}", f"{slot}.adapter.name=linear") == {"share": "other"}
