"""`init_from`: a run begins with the weights of other runs, published files and LoRA, and needs them only once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from head_support import write_boxes
from llava_support import save_checkpoint, save_pictures
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tests_support import RECIPE
from torch import Tensor

from omnivit import cli
from omnivit.contracts.sample import Sample
from omnivit.data.collate import collate
from omnivit.data.records import messages_from
from omnivit.data.sources import open_mixture
from omnivit.errors import CheckpointError, RecipeError
from omnivit.model.build import load_model, preparer_of
from omnivit.model.omni import OmniModel
from omnivit.model.weight_file import WeightFile
from omnivit.recipe import InitFrom, Recipe, load, to_yaml
from omnivit.run import folder, loading
from omnivit.run.check import build_on_meta
from omnivit.run.provenance import PROVENANCE
from omnivit.run.runner import train
from omnivit.run.start import keep
from omnivit.run.start_file import START, read_start
from omnivit.run.start_sources import open_sources
from omnivit.run.trust import remember
from omnivit.train import checkpoint

Load = Callable[..., Recipe]
QUICK = ("stages.align.steps=2", "stages.instruct.steps=2", "checkpoint_every=1", "keep.last=9")
NO_LORA = ("model.llm.lora=null", 'stages.instruct.train={"adapters.*": 1e-3}')
Q_PROJ = "llm.hf.model.layers.0.self_attn.q_proj"


def begun(recipe: Recipe) -> OmniModel:
    return load_model(recipe, open_sources(recipe))


def logits(model: OmniModel, recipe: Recipe) -> Tensor:
    mixture, preparer = open_mixture(recipe.stages[0].data, recipe.data.root), preparer_of(model, recipe)
    samples = [preparer(mixture[number]) for number in (0, 1, 21)]
    with torch.no_grad():
        return model.eval()(collate(samples, tuple(preparer.slots), preparer.chat.pad_id)).logits


def different(one: OmniModel, other: OmniModel) -> list[str]:
    theirs = other.state_dict()
    return [name for name, value in one.state_dict().items() if not torch.equal(value, theirs[name])]


def only(recipe: Recipe, *names: str) -> Recipe:
    return replace(recipe, stages=[stage for stage in recipe.stages if stage.name in names])


def written_run(
    path: Path,
    recipe: Recipe,
    weights: Mapping[str, Tensor],
    index: int = 0,
    merged: Mapping[str, Tensor] | None = None,
) -> Path:
    """A run folder of which training has left these weights."""
    folder.create(path, recipe)
    stage = recipe.stages[index].name
    state = {"stage": stage, "stage_index": index, "step": 1, "total_steps": 1, "skipped": [], "seconds": 0.0}
    name = checkpoint.checkpoint_name(index, stage, 1)
    checkpoint.save(path / folder.CHECKPOINTS, name, dict(weights), {}, state, merged=merged)
    return path


def drawn_lora(model: OmniModel, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = [name for name, _ in model.named_parameters() if "lora_" in name]
    return {name: torch.randn(model.get_parameter(name).shape, generator=generator) * 0.3 for name in names}


def test_two_recipes_are_one_of_two_stages(load_recipe: Load, tmp_path: Path) -> None:
    """The same bits; the second resumes and opens without the first; its LoRA is merged where there is none."""
    both, first, second = (tmp_path / name for name in ("both", "first", "second"))
    recipe = load_recipe(*QUICK)
    folder.create(both, recipe)
    whole, _ = train(recipe, both)
    folder.create(first, only(recipe, "align"))
    train(only(recipe, "align"), first)

    later = only(load_recipe(*QUICK, f"init_from=[{{run: {first}, parts: ['adapters.*']}}]"), "instruct")
    assert cli.main(["check", str(recipe_file_of(later, tmp_path))]) == 0
    folder.create(second, later)
    run, _ = train(later, second)
    assert not different(run.model, whole.model)
    record = json.loads((second / PROVENANCE).read_text())["start"]
    source = record["sources"][0]
    assert (source["where"], source["stage"], source["step"]) == ("init_from[0]", "align", 2)
    weights = checkpoint.latest(first / folder.CHECKPOINTS)
    assert weights is not None and source["sha256"]["model.safetensors"] in (weights.path / "manifest.json").read_text()

    shutil.rmtree(first)
    shutil.rmtree(second / folder.CHECKPOINTS / "00-instruct-step-00000002")
    resumed, _ = train(folder.reopen(second), second, resume=True)
    assert not different(resumed.model, whole.model)
    assert not different(loading.load(second, device="cpu").model, whole.model)

    merged = load_recipe(*NO_LORA, f"init_from=[{{run: {second}, merge: true}}]")
    assert not any("lora_" in name for name, _ in begun(merged).named_parameters())
    torch.testing.assert_close(logits(begun(merged), merged), logits(whole.model, recipe), rtol=0, atol=1e-5)
    with pytest.raises(RecipeError, match=r"which is LoRA, but this recipe has none at llm\.hf.*Write `merge: true`"):
        begun(replace(merged, init_from=[replace(merged.init_from[0], merge=False)]))

    (second / START).write_bytes((second / START).read_bytes()[:-1] + b"\x00")
    with pytest.raises(CheckpointError, match=r"start\.safetensors: its SHA-256 is .* damaged"):
        loading.load(second, device="cpu")
    (second / START).unlink()
    for opening in (lambda: loading.load(second), lambda: train(folder.reopen(second), second, resume=True)):
        with pytest.raises(CheckpointError, match=r"start\.safetensors is missing: it holds the weights"):
            opening()


def recipe_file_of(recipe: Recipe, tmp_path: Path) -> Path:
    path = tmp_path / "later.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    return path


@pytest.mark.parametrize("way", ["init_from", "path"])
def test_the_projector_file_of_llava_gives_the_logits_of_transformers(way: str, tmp_path: Path) -> None:
    """Within 1e-5 of LlavaForConditionalGeneration, of a random checkpoint (transformers 5)."""
    theirs, processor = save_checkpoint("vicuna", tmp_path / "checkpoint")
    assert cli.main(["import-hf", str(tmp_path / "checkpoint"), "--out", str(tmp_path / "run")]) == 0
    projector = theirs.model.multi_modal_projector
    layers = {0: projector.linear_1, 2: projector.linear_2}
    file = tmp_path / "mm_projector.bin"
    torch.save(
        {f"model.mm_projector.{n}.{k}": v.detach() for n, m in layers.items() for k, v in m.named_parameters()}, file
    )
    entry = f"{{file: {file}, into: adapters.image.layers, rename: {{model.mm_projector.: ''}}}}"
    override = f"init_from=[{entry}]" if way == "init_from" else f"model.inputs.image.adapter.path={file}"
    recipe = load(tmp_path / "run" / folder.RECIPE, [override])
    build_on_meta(recipe)
    model = begun(recipe)
    wide, _ = save_pictures(tmp_path)
    content = [{"type": "image", "path": wide}, {"type": "text", "text": "Which colour is it?"}]
    turns = [{"role": "user", "content": content}]
    inputs = processor.apply_chat_template(
        [turns], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    preparer = preparer_of(model, recipe)
    batch = collate([preparer(Sample("s", messages_from(turns, None, "s")), generate=True)], ("image",), 0)
    with torch.inference_mode():
        found, expected = (
            model(batch, keep=torch.ones_like(batch.input_ids, dtype=torch.bool)).logits,
            theirs(**inputs).logits,
        )
    torch.testing.assert_close(found, expected[0], rtol=0, atol=1e-5)


def test_a_lora_that_peft_has_saved(load_recipe: Load, tmp_path: Path) -> None:
    """Merged, and as the recipe's own LoRA: the logits of peft's model within 1e-5."""
    plain = load_recipe(*NO_LORA)
    model = load_model(plain)
    ids = torch.randint(0, 200, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.llm.hf(ids).logits  # type: ignore[union-attr]
        theirs = get_peft_model(model.llm.hf, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]))  # type: ignore[arg-type]
        for name, value in theirs.named_parameters():
            if "lora_B" in name:
                value.normal_(generator=torch.Generator().manual_seed(len(name)))
        expected = theirs.eval()(ids).logits
        assert (expected - before).abs().max() > 0.05
        theirs.save_pretrained(str(tmp_path / "lora"))
        source = f"{{lora: {tmp_path / 'lora'}, merge: true}}"
        for recipe in (
            load_recipe(*NO_LORA, f"init_from=[{source}]"),
            load_recipe(f"init_from=[{source.replace('true', 'false')}]"),
        ):
            build_on_meta(recipe)
            found = begun(recipe).llm.hf(ids).logits  # type: ignore[union-attr]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(RecipeError, match=r"lora_A.*with alpha / r = 2, but this recipe has 4 there"):
        build_on_meta(load_recipe("model.llm.lora.alpha=8", f"init_from=[{source.replace('true', 'false')}]"))
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(RecipeError, match="use_dora: True is not supported"):
        build_on_meta(load_recipe(*NO_LORA, f"init_from=[{source}]"))


def test_what_earlier_runs_have_merged_comes_along(load_recipe: Load, tmp_path: Path) -> None:
    """Three LoRA: of a first run, merged when the second began; merged by a stage of the second; and its newest."""
    plain = load_recipe()
    model = load_model(plain)
    adapter = {f"adapters.image.{name}": value + 0.1 for name, value in model.adapters["image"].state_dict().items()}
    first = written_run(tmp_path / "first", plain, {**adapter, **drawn_lora(model, 1)}, index=1)
    second = load_recipe(f"init_from=[{{run: {first}, merge: true}}]")
    second = replace(second, stages=[second.stages[0], replace(second.stages[1], merge_lora=True)])
    merged = {f"instruct/{name}": value for name, value in drawn_lora(model, 2).items()}
    run = written_run(tmp_path / "second", second, {**adapter, **drawn_lora(model, 3)}, 1, merged)
    keep(open_sources(second), second, run)
    expected = logits(loading.load(run, device="cpu").model, second)
    shutil.rmtree(first)
    alone = load_recipe(*NO_LORA, f"init_from=[{{run: {run}, merge: true}}]")
    torch.testing.assert_close(logits(begun(alone), alone), expected, rtol=0, atol=2e-5)
    again = load_recipe(f"init_from=[{{run: {run}, parts: ['adapters.*', 'llm.*lora_*']}}]")
    torch.testing.assert_close(logits(begun(again), again), expected, rtol=0, atol=2e-5)
    assert (logits(load_model(plain), plain) - expected).abs().max() > 0.1


def test_a_row_of_a_new_token_from_the_table_of_a_published_file(load_recipe: Load, tmp_path: Path) -> None:
    """As OpenFlamingo saves its model: <|endofchunk|> and <image> follow the rows of LLaMA, and <PAD> follows them."""
    recipe = load_recipe("model.llm.tokens=['<|endofchunk|>']")
    plain = load_model(recipe)
    table = plain.llm.embedding()
    vocabulary = len(table)
    published = torch.randn(vocabulary + 3, table.shape[1], generator=torch.Generator().manual_seed(5))
    file = tmp_path / "checkpoint.pt"
    state = {"lang_encoder.model.embed_tokens.weight": published, "perceiver.latents": torch.zeros(4, 8)}
    torch.save(state, file)
    rename = {"lang_encoder.model.embed_tokens.weight": "llm.tokens.embedding"}

    def entry(**changed: Any) -> Recipe:
        parts = {"file": str(file), "rename": rename, "tokens": {"<|endofchunk|>": vocabulary}}
        return replace(recipe, init_from=[InitFrom(**(parts | changed))])

    model = begun(entry())
    token = model.llm.tokenizer().convert_tokens_to_ids("<|endofchunk|>")
    assert torch.equal(model.llm.embed(torch.tensor([[token]]))[0, 0], published[vocabulary])
    assert different(model, plain) == ["llm.tokens.embedding"]  # not the rows of other tokens, nor the output's
    keep(open_sources(entry()), entry(), tmp_path / "run")
    kept = read_start(tmp_path / "run" / START)
    assert kept.rows["<|endofchunk|>"]["embedding"].equal(published[vocabulary])
    build_on_meta(entry())

    with pytest.raises(RecipeError, match=r"tokens\['<image>'\].*is row 9999999, but the table of the file .* has"):
        open_sources(entry(tokens={"<image>": 9999999}))
    with pytest.raises(RecipeError, match=r"contains a table of tokens \(llm.tokens.embedding\), but not which row"):
        open_sources(entry(tokens={}))
    with pytest.raises(RecipeError, match=r"contains no table of tokens .* `rename`"):
        open_sources(entry(rename={"perceiver.": "adapters.image."}))
    with pytest.raises(RecipeError, match=r"a row of the new token '<image>', but this recipe adds the tokens <\|end"):
        begun(entry(tokens={"<image>": vocabulary + 1}))


def test_rows_of_new_tokens_go_by_their_texts(data_root: Path, tmp_path: Path) -> None:
    """A token that has another number in the later recipe takes its own row; one that is not there is refused."""
    write_boxes(data_root)

    def heads(*classes: str) -> Recipe:
        named = ", ".join(f"h{number}: {{name: 'head_support:{name}'}}" for number, name in enumerate(classes))
        path = tmp_path / "heads.yaml"
        path.write_text(RECIPE.format(root=data_root), encoding="utf-8")
        return load(path, [f"model.heads={{{named}}}", "model.llm.lora=null", 'stages.instruct.train={"llm.*": 1e-3}'])

    old, new = heads("Masks", "Boxes"), heads("Boxes", "Masks")
    texts = [head.token for _, head in load_model(old).named_heads()]
    rows = torch.arange(64.0).reshape(2, 32)
    run = written_run(tmp_path / "run", old, {"llm.tokens.embedding": rows, "llm.tokens.output": rows + 100})
    entry = {"run": str(run), "parts": ["llm.tokens.*"]}
    remember(load(run / folder.RECIPE))  # its heads are named directly, as training would have noted
    later = load(recipe_file_of(new, tmp_path), [f"init_from=[{json.dumps(entry)}]"])
    build_on_meta(later)
    model = begun(later)
    assert [head.token for _, head in model.named_heads()] == texts[::-1]
    assert model.llm.tokens.embedding.equal(rows.flip(0))  # type: ignore[union-attr, operator]
    assert model.llm.tokens.output.equal(rows.flip(0) + 100)  # type: ignore[union-attr, operator]
    alone = load(recipe_file_of(heads("Boxes"), tmp_path), [f"init_from=[{json.dumps(entry)}]"])
    with pytest.raises(RecipeError, match=r"a row of the new token .* but this recipe adds the tokens \[BOX\]"):
        build_on_meta(alone)


def test_what_does_not_fit_is_refused_before_a_weight_is_read(
    load_recipe: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe()
    state = {
        f"adapters.image.{name}": value for name, value in load_model(recipe).adapters["image"].state_dict().items()
    }
    file = tmp_path / "adapter.safetensors"
    save_file(state, file)
    run = written_run(tmp_path / "run", recipe, state)
    monkeypatch.setattr(WeightFile, "read", None)

    def refusal(entry: dict[str, Any], *overrides: str) -> str:
        with pytest.raises(RecipeError) as caught:
            build_on_meta(load_recipe(f"init_from=[{json.dumps(entry)}]", *overrides))
        assert str(caught.value).startswith("init_from[0]"), caught.value
        return str(caught.value)

    ours = {"file": str(file)}
    build_on_meta(load_recipe(f"init_from=[{json.dumps(ours)}]"))
    assert "parts[1] (command line): 'llm.*' matches nothing: the file" in refusal(
        {**ours, "parts": ["adapters.*", "llm.*"]}
    )
    wider = refusal(ours, "model.inputs.image.adapter.hidden=9")
    assert "'adapters.image.layers.0.bias' of shape [32], but" in wider
    assert "adapters.image.layers.0.bias of this recipe has the shape [9]" in wider
    unknown = refusal({**ours, "rename": {"adapters.image.layers": "adapters.image.layer"}})
    assert "contains 'adapters.image.layers.0.bias' (and 3 more), but no component of this recipe has" in unknown
    assert "did you mean 'adapters.image.layers.0.bias'" in unknown
    lacking = refusal({**ours, "parts": ["adapters.*"]}, "model.inputs.image.adapter.depth=3")
    assert "does not contain adapters.image.layers.4.weight and 1 more, which adapters.* names here" in lacking
    assert "does not contain llm.hf" not in lacking
    assert "contains no LoRA among what is taken" in refusal({"run": str(run), "merge": True})
    frozen = refusal({"run": str(run), "parts": ["adapters.*", "*.image.*"]}, "model.inputs.image.encoder.layer=-1")
    assert "does not contain encoders.image" in frozen and "give the component the same options" in frozen
    build_on_meta(load_recipe(f"init_from=[{json.dumps({'run': str(run), 'parts': ['adapters.*', '*.image.*']})}]"))
    assert "contains no run" in refusal({"run": str(tmp_path / "nowhere")})
    assert "there is no checkpoint 'bst'" in refusal({"run": str(run), "checkpoint": "bst"})
    with pytest.raises(RecipeError, match="its weights were not read"):
        load_model(load_recipe(f"init_from=[{json.dumps(ours)}]"))
