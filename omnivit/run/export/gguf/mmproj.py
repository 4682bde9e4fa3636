"""The encoder and adapter of images -> `mmproj.gguf`, for llama.cpp's multimodal loader.

Its graph for a projector of two linear layers (`clip.projector_type: mlp`) is proven here for SigLIP 1 and 2 of one
image size. CLIP's is refused: docs/decisions/0019-gguf.md says why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from omnivit.data.prepare import Preparer
from omnivit.files import replacing
from omnivit.model.omni import OmniModel
from omnivit.run.export.gguf.llm import add_tensor, finish

TOWER = "siglip_vision_model"


def problem_of(model: OmniModel, preparer: Preparer) -> str | None:
    """Why llama.cpp cannot compute the tokens of this run's media; None: it can."""
    slots = list(preparer.slots)
    if len(slots) != 1 or len(model.branches(slots[0])) != 1:
        return (
            f"llama.cpp takes images by one encoder and one adapter, but the inputs are {', '.join(slots) or 'none'}."
        )
    encoder, adapter = model.branches(slots[0])[0]
    tower = getattr(encoder, "tower", None)
    kind = getattr(getattr(encoder, "_settings", None), "model_type", type(encoder).__name__)
    if kind == "clip_vision_model":
        return (
            "the encoder is CLIP. llama.cpp puts its class token behind the patches, but numbers positions and chooses "
            "patches as if it were before them, so answers would differ. Use SigLIP, or `--to hf`."
        )
    if kind != TOWER or tower is None:
        return f"the encoder is {kind}; llama.cpp's graph is proven for {TOWER} only."
    return _encoder_problem(encoder) or _adapter_problem(adapter)


def _encoder_problem(encoder: Any) -> str | None:
    config, process = encoder.config, encoder._process
    if isinstance(config.layer, list) or config.norm or config.project or config.class_token != "drop":
        return "its encoder has `join`, `norm`, `project` or `class_token`, which the graph does not have."
    size = encoder._settings.image_size
    if config.fit != "crop" or (config.image_size or size) != size:
        return "its encoder has another `fit` or `image_size` than the checkpoint."
    if encoder._settings.hidden_act != "gelu_pytorch_tanh":
        return f"the activation of its encoder is {encoder._settings.hidden_act!r}, not 'gelu_pytorch_tanh'."
    resize = getattr(process, "size", None)
    if not (resize and resize["height"] == resize["width"] == size):
        return "its image processor does not resize to a square of the encoder's size."
    return None


def _adapter_problem(adapter: nn.Module) -> str | None:
    layers = getattr(adapter, "layers", None)
    kinds = [type(layer) for layer in layers] if isinstance(layers, nn.Sequential) else []
    if kinds not in ([nn.Linear, nn.GELU, nn.Linear],):
        return f"its adapter is {type(adapter).__name__}, not `mlp` of depth 2 with GELU between (`gelu`, `gelu_tanh`)."
    assert isinstance(layers, nn.Sequential)
    if any(layer.bias is None for layer in layers if isinstance(layer, nn.Linear)):
        return "its adapter has no biases (`bias: false`), which the graph adds."
    return None


def write_mmproj(model: OmniModel, preparer: Preparer, file: Path, dtype: str) -> Path:
    """Write encoder and adapter. Call `problem_of` first.

    Args:
        model: on the CPU.
        preparer: names the only slot.
        file: is replaced.
        dtype: of matrices.
    """
    import gguf

    encoder, adapter = model.branches(next(iter(preparer.slots)))[0]
    tower: Any = encoder.tower
    depth = int(tower.config.num_hidden_layers)
    with replacing(file) as partial:
        writer = gguf.GGUFWriter(partial, "clip")
        _write_settings(writer, encoder, depth, adapter.width)
        for name, weight in tower.state_dict().items():
            if (target := _name(name)) is not None:
                # the convolution is read in float16 or float32, whatever the other matrices are
                add_tensor(writer, target, weight, "float32" if "embd" in target else dtype)
        for number in (0, 2):
            for key, weight in adapter.layers[number].state_dict().items():  # type: ignore[index, union-attr]
                add_tensor(writer, f"mm.{number}.{key}", weight, dtype)
        finish(writer)
    return file


def _write_settings(writer: Any, encoder: Any, depth: int, width: int) -> None:
    settings, process = encoder.tower.config, encoder._process
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_image_size(settings.image_size)
    writer.add_vision_patch_size(settings.patch_size)
    writer.add_vision_embedding_length(settings.hidden_size)
    writer.add_vision_feed_forward_length(settings.intermediate_size)
    writer.add_vision_projection_dim(width)
    writer.add_vision_block_count(depth)
    writer.add_vision_head_count(settings.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(settings.layer_norm_eps)
    writer.add_vision_image_mean(list(process.image_mean))
    writer.add_vision_image_std(list(process.image_std))
    writer.add_vision_use_gelu(True)
    # else its graph leaves out the last layer of the file
    writer.add_array("clip.vision.feature_layer", [depth])


_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
_OUTSIDE = {
    "embeddings.patch_embedding.weight": "v.patch_embd.weight",
    "embeddings.patch_embedding.bias": "v.patch_embd.bias",
    "embeddings.position_embedding.weight": "v.position_embd.weight",
}


def _name(name: str) -> str | None:
    """A name of the tower in GGUF; None: it is not needed (a norm after the last layer, a pooling head)."""
    name = name.removeprefix("vision_model.")
    if not name.startswith("encoder.layers."):
        return _OUTSIDE.get(name)
    number, _, rest = name.removeprefix("encoder.layers.").partition(".")
    module, _, key = rest.rpartition(".")
    return f"v.blk.{number}.{_PARTS[module]}.{key}"
