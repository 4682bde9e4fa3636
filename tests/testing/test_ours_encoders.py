"""Our own encoders keep the contract, as their examples are and in other shapes of their families."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omnivit_encoders.clip import ClipEncoder
from omnivit_encoders.document.encoder import DocumentEncoder
from omnivit_encoders.document.native import DocumentNativeEncoder
from omnivit_encoders.features import FeaturesEncoder
from omnivit_encoders.imagebind.encoder import ImageBindEncoder
from omnivit_encoders.medical import MedicalEncoder
from omnivit_encoders.timm.encoder import TimmEncoder
from omnivit_encoders.ulip.encoder import UlipEncoder
from omnivit_encoders.video.encoder import VideoEncoder
from omnivit_encoders.video_transformer import VideoTransformerEncoder
from omnivit_encoders.whisper.encoder import WhisperEncoder

from omnivit.contracts import registries
from omnivit.contracts.card import Card
from omnivit.contracts.encoder import Encoder
from omnivit.contracts.examples import EncoderExample
from omnivit.contracts.options import describe_config
from omnivit.testing.encoder import EncoderContract


class TestClip(EncoderContract):
    encoder = ClipEncoder


class TestDocument(EncoderContract):
    encoder = DocumentEncoder


class TestDocumentNative(EncoderContract):
    encoder = DocumentNativeEncoder


class TestFeatures(EncoderContract):
    encoder = FeaturesEncoder


class TestImageBind(EncoderContract):
    encoder = ImageBindEncoder


class TestMedical(EncoderContract):
    encoder = MedicalEncoder


class TestTimm(EncoderContract):
    encoder = TimmEncoder


class TestUlip(EncoderContract):
    encoder = UlipEncoder


class TestVideo(EncoderContract):
    encoder = VideoEncoder


class TestVideoTransformer(EncoderContract):
    encoder = VideoTransformerEncoder


class TestWhisper(EncoderContract):
    encoder = WhisperEncoder


def otherwise(plugin: type[Encoder], **options: Any) -> type[Encoder]:
    """A plugin whose example says some things in another way."""

    def example(cls: type[Encoder], folder: Path) -> EncoderExample:
        del cls
        own = plugin.example(folder)
        return replace(own, config={**own.config, **options})

    return type(plugin.__name__, (plugin,), {"example": classmethod(example), "__module__": __name__})


SIZES = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL = {**SIZES, "image_size": 32, "patch_size": 16, "num_frames": 4}
VIVIT = {"model_type": "vivit", **SIZES, "image_size": 32, "tubelet_size": [2, 16, 16], "num_frames": 4}
VJEPA2 = {"model_type": "vjepa2", **SIZES, "crop_size": 32, "patch_size": 16, "frames_per_clip": 4, "tubelet_size": 2}
VJEPA2 |= {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
NAFLEX = {"model_type": "siglip2_vision_model", **SIZES, "num_patches": 16, "patch_size": 8}
DINO = {"model_type": "dinov2_with_registers", **SIZES, "image_size": 32, "patch_size": 16}
INSIDE = {"name": "clip", "config": DINO, "class_token": "keep"}


class TestClipTokens(EncoderContract):
    encoder = otherwise(ClipEncoder, config=DINO, class_token="keep", layer=-1, dtype="bfloat16")


class TestTimmTransformer(EncoderContract):
    encoder = otherwise(TimmEncoder, model="test_vit", grid=2, layer=-2)


class TestFeaturesHalf(EncoderContract):
    encoder = otherwise(FeaturesEncoder, dtype="bfloat16")


class TestTimeSformer(EncoderContract):
    encoder = otherwise(VideoTransformerEncoder, config={"model_type": "timesformer", **SMALL})


class TestViViT(EncoderContract):
    encoder = otherwise(VideoTransformerEncoder, config=VIVIT, layer=-2)


class TestVJEPA2(EncoderContract):
    encoder = otherwise(VideoTransformerEncoder, config=VJEPA2)


class TestNaFlex(EncoderContract):
    encoder = otherwise(DocumentNativeEncoder, config=NAFLEX)


class TestDocumentCrops(EncoderContract):
    encoder = otherwise(DocumentEncoder, encoder=INSIDE, cropping="adaptive", joined=False)


class TestMedicalSinusoidal(EncoderContract):
    encoder = otherwise(MedicalEncoder, encoder=INSIDE, positions="sinusoidal", planes=["axial", "coronal"])


class TestUlipPooled(EncoderContract):
    encoder = otherwise(UlipEncoder, variant="ulip2", sampling="random")


class TestVideoPositions(EncoderContract):
    encoder = otherwise(VideoEncoder, encoder=INSIDE, temporal="positions", sampling="head_tail")


class TestWhisperLayer(EncoderContract):
    encoder = otherwise(WhisperEncoder, layer=-2, multiple=1, window=0.3, too_long="cut", dtype="bfloat16")


def ours() -> dict[str, type[Encoder]]:
    encoders = registries.encoders
    names = [name for name in encoders.names() if encoders.provenance(name)["distribution"] == "omnivit"]
    return {name: encoders.get(name) for name in names}


def test_each_of_ours_is_tried() -> None:
    tried = {found.encoder for found in globals().values() if hasattr(found, "encoder")}
    assert ours() and set(ours().values()) <= tried


@pytest.mark.parametrize("name", ours())
def test_each_of_ours_has_a_card(name: str) -> None:
    plugin = ours()[name]
    assert isinstance(plugin.card, Card) and plugin.card.tokens
    loads = {found.name for found in describe_config(plugin.Config)} & {"path", "pretrained", "encoder"}
    assert bool(plugin.card.weights) is bool(loads)
    assert not loads or "arXiv" in plugin.card.paper or "doi" in plugin.card.paper
