"""`omnivit check` as a user runs it: real numbers, no weights, and the remedy where something is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests_support import picture_record, write_jsonl
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from omnivit import cli
from omnivit.contracts.batch import IGNORE
from omnivit.data.sources import open_mixture
from omnivit.errors import DataError
from omnivit.model.build import load_model, preparer_of
from omnivit.model.omni import OmniModel
from omnivit.model.tokens import byte_tokenizer
from omnivit.recipe import Recipe
from omnivit.run.check import build_on_meta, check
from omnivit.run.check_samples import check_samples, without_media

Load = Callable[..., Recipe]
MERGE = "model.inputs.image.adapter={{name: chain, steps: [{{name: pool, kind: merge, n: {n}}}, {{name: linear}}]}}"


def outcome(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error of `omnivit check`."""
    status = cli.main(["check", *arguments])
    captured = capfd.readouterr()
    return status, captured.out, captured.err


def size(model: OmniModel, pattern: str) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if re.match(pattern, name))


def test_numbers_are_those_of_the_built_model(
    recipe_file: Path, load_recipe: Load, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, err = outcome(capfd, str(recipe_file))
    assert (status, err) == (0, "") and out.startswith(f"{recipe_file}: ok\n")
    model = load_model(load_recipe())
    adapter, lora = size(model, "adapters"), size(model, r"llm\..*lora_")
    assert re.search(rf"^llm +causal +{size(model, 'llm'):,} parameters$", out, re.M)
    assert re.search(rf"^encoder +image: clip +{size(model, 'encoders'):,} parameters$", out, re.M)
    assert re.search(rf"^adapter +image: mlp +{adapter:,} parameters, 4 tokens per medium$", out, re.M)
    assert f"stage align: trains {adapter:,} parameters at lr 0.01 (adapters.*)\n  6 steps of 4 over 24 samples" in out
    assert (
        f"stage instruct: trains {lora:,} parameters at lr 0.01, {adapter:,} parameters at lr 0.001 "
        "(adapters.*, llm.*lora_*)\n  3 steps of 8 over 24 samples" in out
    )


def test_the_longest_sample_and_the_supervised_share(load_recipe: Load) -> None:
    recipe = load_recipe()
    preparer = preparer_of(load_model(recipe), recipe)
    mixture = open_mixture(recipe.stages[0].data, recipe.data.root)
    samples = [preparer(mixture[i]) for i in range(24)]
    [align, instruct] = check(recipe).stages
    assert align.longest == instruct.longest == max(len(s.ids) for s in samples)
    supervised = sum(int((s.labels != IGNORE).sum()) for s in samples) / sum(len(s.ids) for s in samples)
    assert align.supervised == pytest.approx(supervised)
    assert (align.steps, align.samples, align.refused) == (6, 24, [])


def test_base_weights_that_train_beside_lora_are_told_of(load_recipe: Load, caplog: pytest.LogCaptureFixture) -> None:
    check(load_recipe(), with_data=False)
    assert "LoRA" not in caplog.text
    check(load_recipe("stages.instruct.train={'llm.*': 1e-4}"), with_data=False)
    assert "stages.instruct.train: both LoRA and the" in caplog.text and "llm.*lora_*" in caplog.text


def test_the_model_takes_no_memory(load_recipe: Load) -> None:
    model = build_on_meta(load_recipe())
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in load_model(load_recipe()).named_parameters()}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """An LLM and an encoder with config and tokenizer as published, whose weights cannot be read."""
    llm, encoder = tmp_path / "llm", tmp_path / "encoder"
    llama = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
    )
    LlamaForCausalLM(llama).save_pretrained(llm)
    byte_tokenizer().save_pretrained(llm)
    CLIPVisionModel(vision).save_pretrained(encoder)
    square = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square).save_pretrained(encoder)
    for folder in (llm, encoder):
        (folder / "model.safetensors").write_bytes(b"damaged")
    return llm, encoder


def test_no_weights_are_read(recipe_file: Path, folders: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    llm, encoder = folders
    blocks = [
        f"model.llm={{name: causal, path: {llm}, lora: {{r: 2, alpha: 4, targets: [q_proj, v_proj]}}}}",
        f"model.inputs.image.encoder={{name: clip, path: {encoder}}}",
    ]
    changes = [override for block in blocks for override in override_whole(block)]
    status, out, err = outcome(capfd, str(recipe_file), *changes)
    assert (status, err) == (0, ""), err
    assert "mlp" in out and "16 tokens per medium" in out
    assert cli.main(["train", str(recipe_file), "--run-dir", str(llm.parent / "run"), *changes]) == 2
    assert "model.llm (command line): llm.path" in (err := capfd.readouterr().err) and "header" in err  # training does
    (encoder / "model.safetensors").unlink()
    status, _, err = outcome(capfd, str(recipe_file), *changes)
    assert status == 2
    assert f"model.inputs.image.encoder (command line): path '{encoder}': the folder contains no weights" in err


def override_whole(block: str) -> list[str]:
    """Replace a plugin's block rather than merge: another name first would do, null for the old keys does too."""
    path = block.partition("=")[0]
    return [f"{path}.config=null", *([f"{path}.tokenizer=null"] if path == "model.llm" else []), block]


def test_without_data(recipe_file: Path, data_root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (data_root / "train.jsonl").unlink()
    status, out, err = outcome(capfd, str(recipe_file))
    assert status == 2 and out == ""
    assert re.match(rf"error: .*{data_root / 'train.jsonl'}", err) and "Traceback" not in err
    status, out, err = outcome(capfd, str(recipe_file), "--without-data")
    assert (status, err) == (0, "")
    assert "no medium was opened" in out and "steps of" not in out and "stage instruct: trains" in out


def test_a_missing_data_file_names_its_neighbours(
    recipe_file: Path, data_root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _, err = outcome(capfd, str(recipe_file), "stages.align.data=[{path: trian.jsonl}]")
    assert status == 2 and str(data_root / "trian.jsonl") in err and "did you mean 'train.jsonl'" in err


@pytest.mark.parametrize(
    "override",
    [
        "stages.instruct.validation={data: [{path: absent.jsonl}]}",
        "evaluation={data: [{path: absent.jsonl}]}",
        "evaluation={data: [{path: train.jsonl}], linear_probe: [{path: absent.jsonl}]}",
    ],
)
@pytest.mark.parametrize("verb", ["check", "train"])
def test_files_that_are_needed_late_are_missed_early(
    verb: str, override: str, recipe_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main([verb, str(recipe_file), override]) == 2
    assert "absent.jsonl" in capfd.readouterr().err
    assert not (tmp_path / "runs/tiny/checkpoints").exists()


@pytest.mark.parametrize(
    ("line", "path", "hint"),
    [
        ("adapter: {name: mlp, dpeth: 2}", "model.inputs.image.adapter.dpeth", "did you mean 'depth'"),
        ("adapter: {name: mlp, depth: two}", "model.inputs.image.adapter.depth", "'two'"),
        ("adapter: {name: mpl}", "mpl", "did you mean 'mlp'"),
    ],
)
def test_a_slip_in_a_plugins_block(
    line: str, path: str, hint: str, recipe_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = recipe_file.read_text().replace("adapter: {name: mlp, depth: 2}", line)
    recipe_file.write_text(text)
    number = next(k for k, read in enumerate(text.splitlines(), 1) if line in read)
    status, _, err = outcome(capfd, str(recipe_file))
    assert status == 2 and path in err and hint in err and "Traceback" not in err
    assert path == "mpl" or f"{recipe_file.name}:{number}" in err


def test_a_bad_sample_is_named(recipe_file: Path, data_root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (data_root / "red.png").write_bytes(b"not a picture")
    status, _, err = outcome(capfd, str(recipe_file), "--all")
    assert status == 2 and err.startswith("error: stages.align.data: 5 of 24 records are bad:\n  sample 'p0' (")
    assert re.search(r"\n  sample 'p0' \(.*train.jsonl:1\): .*red.png: is not an image", err)
    assert "\nSet `data.on_bad_sample: skip` to skip and count such samples" in err
    status, _, err = outcome(capfd, str(recipe_file), "--all", "data.on_bad_sample=skip")
    assert status == 2 and "`data.skip_budget: 0.01` allows 1 of them." in err
    status, out, _ = outcome(capfd, str(recipe_file), "--all", "data.on_bad_sample=skip", "data.skip_budget=0.5")
    assert status == 0 and "  5 records are bad, training skips them: sample 'p0'" in out


def test_every_record_is_read_and_the_media_of_some_are_opened(
    recipe_file: Path, data_root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ["red", "blue"]
    records = [picture_record(f"p{i}", f"{names[i % 2]}.png", names[i % 2]) for i in range(40)]
    write_jsonl(data_root / "train.jsonl", records)
    status, out, _ = outcome(capfd, str(recipe_file))
    assert status == 0 and "over 40 samples; all records were read, the media of 16 opened: longest" in out
    _, out, _ = outcome(capfd, str(recipe_file), "--all")
    assert "all records were read, the media of 40 opened" in out
    for number, (change, reason) in enumerate(
        [
            ({"role": "user", "content": [{"type": "sound", "sound": "a.wav"}]}, "no input slot 'sound'"),
            ({"role": "user", "content": "long " * 200}, "`data.max_length` is"),
        ]
    ):
        wrong = [*records]
        wrong[38 + number] = records[38 + number] | {"messages": [change, records[0]["messages"][1]]}
        write_jsonl(data_root / "train.jsonl", wrong)
        status, _, err = outcome(capfd, str(recipe_file))
        assert status == 2 and f"sample 'p{38 + number}'" in err and reason in err, err


def test_a_short_medium_that_was_not_opened_is_not_refused_for_the_rows_of_others(load_recipe: Load) -> None:
    recipe = load_recipe()
    preparer = preparer_of(load_model(recipe), recipe)
    mixture = open_mixture(recipe.stages[0].data, recipe.data.root)
    real = [preparer(mixture[i]) for i in range(len(mixture))]
    wider = [replace(sample, spans=tuple(replace(span, length=500) for span in sample.spans)) for sample in real]
    blind = without_media(preparer, wider)
    with pytest.raises(DataError, match="max_length"):
        blind(mixture[0])
    assert check_samples(mixture, preparer, everything=False).refused == []


def test_questions_that_are_trained_on_are_counted(recipe_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    evaluation = "evaluation={data: [{path: train.jsonl}], conditions: ['true']}"
    status, out, _ = outcome(capfd, str(recipe_file), evaluation)
    assert status == 0 and re.search(
        r"evaluation: 24 questions\. \d+ of \d+ different questions are in the training data too", out
    )


def test_nothing_but_bad_samples_is_an_error(load_recipe: Load, data_root: Path) -> None:
    write_jsonl(data_root / "train.jsonl", [picture_record(f"b{i}", "absent.png", "red") for i in range(3)])
    with pytest.raises(DataError, match=r"3 of 3 records are bad:\n  sample 'b0'"):
        check(load_recipe("data.on_bad_sample=skip"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.inputs.image.encoder.class_token=keep", MERGE.format(n=2)],
            r"error: model\.inputs\.image\.adapter: pool, kind merge: the tokens must fill a grid",
        ),
        (
            [MERGE.format(n=3)],
            r"error: model\.inputs\.image\.adapter: pool, kind merge: a grid of 2 x 2 tokens cannot be divided",
        ),
        (
            ["model.inputs.image.adapter={name: pool, kind: mean}"],
            r"error: model\.inputs\.image\.adapter: .* of width 24, but the LLM takes 32\. Add a step .*name: linear",
        ),
    ],
    ids=["no grid", "sizes that do not divide", "another width"],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_reason(
    overrides: list[str], message: str, recipe_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _, err = outcome(capfd, str(recipe_file), *overrides)
    assert status == 2 and re.search(message, err, re.S), err
