"""What `omnivit import-hf` writes, and what it refuses; `test_llava_parity` shows that the numbers are right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from llava_support import save_checkpoint
from safetensors.torch import load_file, save_file

from omnivit import cli
from omnivit.errors import CheckpointError
from omnivit.run.importing.llava import import_llava


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "llava"
    save_checkpoint("vicuna", path)
    return path


@pytest.fixture
def source(original: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to spoil."""
    return Path(shutil.copytree(original, tmp_path / "llava"))


def test_run_folder_holds_what_transformers_reads(source: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForCausalLM, AutoTokenizer

    run = tmp_path / "new" / "run"
    import_llava(source, run)
    assert sorted(p.name for p in run.iterdir()) == ["checkpoints", "encoder", "llm", "recipe.yaml"]
    assert sorted(p.name for p in run.parent.iterdir()) == ["run"], "no partial folder is left"
    llm, found = AutoModelForCausalLM.from_pretrained(run / "llm", output_loading_info=True)
    assert type(llm).__name__ == "LlamaForCausalLM" and not any(found.values())
    assert AutoTokenizer.from_pretrained(run / "llm").chat_template == (source / "chat_template.jinja").read_text()
    assert AutoConfig.from_pretrained(run / "encoder").model_type == "clip_vision_model"
    assert AutoImageProcessor.from_pretrained(run / "encoder").crop_size == {"height": 28, "width": 28}


def test_half_precision_stays_as_it_is(source: Path, tmp_path: Path) -> None:
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(source, dtype=torch.float16)
    for file in source.glob("*.safetensors*"):
        file.unlink()
    model.save_pretrained(source)
    import_llava(source, tmp_path / "run")
    for name in ("llm", "encoder", "checkpoints/00-import-step-00000000"):
        tensors = load_file(tmp_path / "run" / name / "model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}, name


def as_published(source: Path) -> None:
    """Lay a checkpoint out as those of 2023 on the hub: other names of tensors and files, position ids stored."""
    tensors = {}
    for file in source.glob("*.safetensors"):
        tensors |= load_file(file)
        file.unlink()
    (source / "model.safetensors.index.json").unlink()
    old = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in tensors.items()}
    assert {name.split(".")[0] for name in old} == {"language_model", "multi_modal_projector", "vision_tower"}
    old["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(old, source / "model.safetensors", {"format": "pt"})
    settings = json.loads((source / "processor_config.json").read_text())
    (source / "preprocessor_config.json").write_text(json.dumps(settings.pop("image_processor")))
    (source / "processor_config.json").write_text(json.dumps(settings))
    template = (source / "chat_template.jinja").read_text()
    (source / "chat_template.jinja").unlink()
    (source / "chat_template.json").write_text(json.dumps({"chat_template": template}))


def test_published_layout_gives_the_same_run(source: Path, tmp_path: Path) -> None:
    import_llava(source, tmp_path / "new")
    as_published(source)
    import_llava(source, tmp_path / "old")
    files = [sorted(p.relative_to(run) for p in run.rglob("*") if p.is_file()) for run in tmp_path.glob("[no]*")]
    assert files[0] == files[1] and len(files[0]) >= 10
    for name in files[0]:
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "old" / name).read_bytes(), name


def test_existing_folder_is_left_alone(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "mine").write_text("precious")
    assert cli.main(["import-hf", str(source), "--out", str(out)]) == 2
    assert "exists. Choose another --out" in capsys.readouterr().err
    assert (out / "mine").read_text() == "precious"


def test_template_where_the_checkpoint_brings_none(source: Path, tmp_path: Path) -> None:
    from omnivit.run.loading import load

    (source / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match=r"no chat template.*--template vicuna_v1"):
        import_llava(source, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"cannot be used, and was not kept: .*refuses the conversation: never"):
        import_llava(source, tmp_path / "run", "{{ raise_exception('never') }}")
    assert not (tmp_path / "run").exists()
    import_llava(source, tmp_path / "run", "vicuna_v1")
    assistant = load(tmp_path / "run", device="cpu")
    encoded = assistant.preparer.chat.encode([assistant.turn("Hm?")], [], generate=True)
    assert "A chat between a curious user" in assistant.preparer.chat.decode(encoded.ids)


def config(source: Path, **changes: Any) -> None:
    file = source / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def siglip(source: Path) -> None:
    config(source, vision_config={"model_type": "siglip_vision_model"})


def pixtral(source: Path) -> None:
    config(source, vision_config={"model_type": "pixtral"})


def pickled_weights(source: Path) -> None:
    for file in source.glob("*.safetensors*"):
        file.unlink()
    torch.save({}, source / "pytorch_model.bin")


def a_lost_tensor(source: Path) -> None:
    index = json.loads((source / "model.safetensors.index.json").read_text())
    name = "multi_modal_projector.linear_2.bias"
    file = source / index["weight_map"][name]
    save_file({key: value for key, value in load_file(file).items() if key != name}, file, {"format": "pt"})


def a_strange_tensor(source: Path) -> None:
    file = sorted(source.glob("*.safetensors"))[0]
    save_file(load_file(file) | {"image_newline": torch.zeros(3)}, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: config(s, model_type="vipllava"), r"'vipllava' is not supported. Supported: 'llava' \("),
        (
            lambda s: config(s, model_type="llava_next", image_grid_pinpoints=[[28, 56], [28, 30]]),
            r"image_grid_pinpoints .* are not all several tiles of 28 pixels",
        ),
        (
            lambda s: config(s, vision_feature_layer=0),
            r"layer 0 is the output of no layer.*supported.*: 1 to 3, or -1 to",
        ),
        (lambda s: config(s, vision_feature_layer=-9), r"vision_feature_layer -9 is the output of no layer"),
        (lambda s: config(s, vision_feature_layer=[-2, -5]), r"\[-2, -5\] joins several layers; supported: one"),
        (lambda s: config(s, projector_hidden_act="mish"), r"projector_hidden_act 'mish'.*Supported: gelu"),
        (lambda s: config(s, image_token_index=7), r"gives 7 as the token of images, but the tokenizer's '<image>' is"),
        (pixtral, r"vision tower of type 'pixtral' is not supported. Supported: clip_vision_model"),
        (siglip, r"'default' drops the class token, but siglip_vision_model has none"),
        (lambda s: (s / "config.json").write_text("[1]"), r"config.json cannot be read"),
        (lambda s: shutil.rmtree(s), r"is not a checkpoint folder"),
        (lambda s: (s / "tokenizer.json").unlink(), r"its processor cannot be read"),
        (pickled_weights, r"no \*.safetensors, and other weight files can run code"),
        (a_lost_tensor, r"not in the checkpoint \(1\): .*linear_2.bias"),
        (a_strange_tensor, r"unknown to the model \(1\): .*image_newline"),
    ],
)
def test_refused(source: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(source)
    with pytest.raises(CheckpointError, match=message):
        import_llava(source, tmp_path / "run")
    assert not (tmp_path / "run").exists()
