"""`whisper`: the encoder of OpenAI's Whisper (Radford et al., Robust Speech Recognition via Large-Scale Weak
Supervision, arXiv 2212.04356, section 2.2): 50 tokens for each second of audio.

As in the original, the encoder reads log-mel spectra of 30 seconds, padded with silence. The tokens of the padding are
masked, so that short audio costs the LLM few tokens; longer audio is encoded in windows of 30 seconds.

Shapes: M audio, W windows, B mel bins, F frames of the spectrum (100 a second), S tokens (50 a second), D width.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from omnivit_encoders.whisper import ctranslate2_weights as whisper_ctranslate2
from torch import Tensor, nn
from transformers import WhisperConfig as HFConfig
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder as HFEncoder

from omnivit.contracts.options import require_within
from omnivit.media.audio import facts_of
from omnivit.model.hf_tower import Dtype, Tower, require_one_source
from omnivit.plugin import (
    Card,
    Encoder,
    EncoderExample,
    Features,
    Media,
    MediaError,
    MediaFacts,
    RecipeError,
    explained,
    load_strictly,
    locate,
    read_audio,
    require_weights,
    synthetic,
)

STRIDE = 2
"""Frames of the spectrum that make one token: the stride of the second convolution."""


@dataclass
class WhisperConfig:
    """Options of `whisper`. Either `path` or `config`."""

    path: str | None = None
    """Pretrained weights: a hub id or folder of a Whisper, or a folder or `model.bin` of CTranslate2
    (faster-whisper)."""
    config: dict[str, Any] | None = None
    """Random weights instead of `path`: values that differ from transformers' WhisperConfig, such as {d_model: 64}."""
    layer: int | None = None
    """Hidden state that is returned: -1 after the last layer, -2 after the one before, 3 after the third; without the
    final norm. Default: after the last layer, with the norm, as Whisper's decoder reads it. Layers above the chosen one
    are not built."""
    windows: int = 10
    """Largest number of windows of an audio."""
    window: float | None = None
    """Length of a window in seconds; default: the checkpoint's 30. Shorter windows are faster, but differ from the
    original: there is less silence after the audio, and fewer positions."""
    multiple: int = 1
    """The number of tokens is rounded up to a multiple of this, with tokens of the silence after the audio, for
    adapters that group them (`pool`, kind `consecutive`). It must divide the tokens of a window (1500 in 30
    seconds)."""
    too_long: Literal["error", "cut"] = "error"
    """What happens to audio that is longer than all windows: `error`, or `cut` its end."""
    dtype: Dtype = "float32"
    """Dtype of the weights; `fastest`: bfloat16 if this machine is clearly faster with it, else float32."""

    def __post_init__(self) -> None:
        require_one_source(self.path, self.config)
        require_within(self, 1, None, "windows", "multiple")
        if self.window is not None and not self.window > 0:
            raise ValueError(f"`window` ({self.window}) must be above 0 seconds.")


@dataclass(frozen=True)
class WhisperProcessor:
    """One audio -> `mels` [W, B, F] and `rows` [] (tokens with audio, rounded up); picklable, no weights.

    The log-mel spectrum is that of transformers' WhisperFeatureExtractor, each window by itself.
    """

    extract: Any
    """A WhisperFeatureExtractor whose length is that of a window."""
    windows: int
    multiple: int
    cut: bool

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read and prepare one audio. Raises MediaError if it cannot be read or is too long."""
        rate, size = self.extract.sampling_rate, self.extract.n_samples
        most = self.windows * size
        sound = read_audio(media, rate, seconds=(most + rate) / rate)
        if len(sound) > most and not self.cut:
            raise MediaError(
                f"{media}: the audio is {_length(media)} long, longer than {self.windows} windows of {size / rate:g} "
                f"seconds. Raise the encoder's `windows`, set `too_long: cut`, or split the file."
            )
        sound = sound[:most]
        pieces = [sound[start : start + size] for start in range(0, len(sound), size)]
        mels = [self.extract(piece, sampling_rate=rate, return_tensors="pt").input_features for piece in pieces]
        rows = self.multiple * math.ceil(len(sound) / (self.extract.hop_length * STRIDE * self.multiple))
        return {"mels": torch.cat(mels), "rows": torch.tensor(rows)}

    def length(self, item: Mapping[str, Tensor]) -> int:
        """Tokens with audio, rounded up."""
        return int(item["rows"])

    def fingerprint(self) -> str:
        """Changes with the settings. 16 hex digits."""
        settings = f"{self.extract.to_json_string()} {self.extract.n_samples} {self.windows} {self.multiple} {self.cut}"
        return hashlib.sha256(settings.encode()).hexdigest()[:16]


class WhisperEncoder(Encoder):
    """A hidden state of Whisper's encoder ([M, S, D]), in order of time."""

    contract = 1
    Config = WhisperConfig
    modality = "audio"
    card = Card(
        paper="Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, arXiv 2212.04356",
        weights="Whisper (OpenAI): MIT",
        tokens="50 for each second of audio, rounded up",
    )

    def __init__(self, config: WhisperConfig) -> None:
        """Raises RecipeError where the model cannot be found or built, has no such layer, or other windows."""
        super().__init__()
        self.config = config
        self._source = Tower("whisper", config.path, config.config, config.dtype)
        full = _settings(self._source)
        require_weights(config.path)
        self._extract = _extractor(config, full)
        self._settings = self._source.up_to_layer(full, config.layer, "encoder_layers")
        self._settings.max_source_positions = self._extract.nb_max_frames // STRIDE
        rows = self._settings.max_source_positions
        if rows % config.multiple:
            raise RecipeError(
                f"whisper encoder: a window has {rows} tokens, which is not a multiple of `multiple` "
                f"({config.multiple})."
            )
        self.width = int(full.d_model)
        self.tower = self._built(self._settings)

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError where they do not fit."""
        if self.config.path is None:
            return
        # The weights have a position for each token of 30 seconds: all are loaded, then cut to those of a window.
        settings = copy.deepcopy(self._settings)
        settings.max_source_positions = int(_settings(self._source).max_source_positions)
        file = whisper_ctranslate2.find(locate(self.config.path))
        if file is None:
            tower = self._source.load(HFEncoder, settings, key_mapping={r"^(model\.)?encoder\.": ""})
        else:
            tower = self._built(settings)
            _fill(tower, whisper_ctranslate2.convert(file).state, str(self._source))
        rows = self._settings.max_source_positions
        positions = tower.embed_positions.weight[:rows].detach().clone()
        tower.embed_positions = nn.Embedding(rows, self.width, _weight=positions, _freeze=True)
        tower.config.max_source_positions = tower.max_source_positions = rows
        self.tower = self._without_norm(tower.eval())

    def processor(self) -> WhisperProcessor:
        """Prepares audio as the checkpoint's own feature extractor does."""
        return WhisperProcessor(self._extract, self.config.windows, self.config.multiple, self.config.too_long == "cut")

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Channels, samples, length and codec of an audio. Raises MediaError."""
        return facts_of(media)

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """Two layers of 16 numbers, windows of half a second, and audio of one to three windows."""
        sizes = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
        config = {**sizes, "num_mel_bins": 80, "max_source_positions": 25}
        media = synthetic.sounds(folder, "audio", (0.71, 0.13, 1.09))
        return EncoderExample(media, {"config": config, "windows": 4, "multiple": 5})

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """`mels` [M, W, B, F] and `rows` [M] -> Features [M, S, D]; S is that of the longest audio."""
        mels, rows = items["mels"], items["rows"]
        size = self._settings.max_source_positions
        windows = (rows + size - 1) // size  # the filling beyond them is not encoded
        real = torch.arange(mels.shape[1], device=mels.device) < windows[:, None]
        encoded = self.tower(mels[real].to(self.tower.dtype)).last_hidden_state  # [all windows, size, D]
        values = encoded.new_zeros(*real.shape, size, encoded.shape[2])
        values[real] = encoded
        values = values.flatten(1, 2)[:, : int(rows.max())]
        mask = torch.arange(values.shape[1], device=rows.device) < rows[:, None]
        return Features(values * mask[:, :, None], mask)

    def _built(self, settings: HFConfig) -> Any:
        return self._without_norm(self._source.build(settings, HFEncoder._from_config))

    def _without_norm(self, tower: Any) -> Any:
        """The tower without its final norm where the recipe chose a layer."""
        if self.config.layer is not None:
            tower.layer_norm = nn.Identity()
        return tower


def _settings(source: Tower) -> HFConfig:
    """The config of the whole model."""
    if source.config is not None:
        values = {key: value for key, value in source.config.items() if key != "model_type"}
        with explained(f"{source}: no config can be created from {source.config}"):
            return HFConfig(**values)
    file = whisper_ctranslate2.find(locate(source.path or ""))
    if file is not None:
        return HFConfig(**whisper_ctranslate2.convert(file).config)
    settings = source.settings()
    if not isinstance(settings, HFConfig):
        raise RecipeError(f"{source}: this model has the type {settings.model_type!r}, but a Whisper is needed.")
    return settings


def _extractor(config: WhisperConfig, settings: HFConfig) -> Any:
    """The feature extractor, for windows of the chosen length."""
    place = None if config.path is None else locate(config.path)
    if place is None or whisper_ctranslate2.find(place) is not None:
        seconds = settings.max_source_positions * STRIDE * 160 / 16000
        make: Any = WhisperFeatureExtractor
        extract: Any = make(feature_size=settings.num_mel_bins)
    else:
        with explained(f"whisper encoder, path {config.path!r}: has no readable feature extractor settings"):
            extract = WhisperFeatureExtractor.from_pretrained(place)
        seconds = extract.n_samples / extract.sampling_rate
    most = settings.max_source_positions * STRIDE * extract.hop_length / extract.sampling_rate
    window = seconds if config.window is None else config.window
    frames = window * extract.sampling_rate / extract.hop_length
    if window > most or frames % STRIDE:
        raise RecipeError(
            f"whisper encoder: a window of {window:g} seconds does not fit: it must be at most {most:g} seconds and a "
            f"multiple of {STRIDE * extract.hop_length / extract.sampling_rate:g} seconds, the length of a position. "
            f"Change `window`."
        )
    extract.chunk_length = window
    extract.n_samples = round(window * extract.sampling_rate)
    extract.nb_max_frames = round(frames)
    return extract


def _fill(tower: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load the encoder's part of the state of a whole model; layers above the chosen one are ignored."""
    prefix = "model.encoder."
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    kept = len(tower.layers)  # type: ignore[arg-type]
    layers = {key.split(".")[1] for key in weights if key.startswith("layers.")}
    unused = [f"layers.{layer}" for layer in layers if int(layer) >= kept]
    if isinstance(tower.layer_norm, nn.Identity):
        unused.append("layer_norm")
    load_strictly(tower, weights, name, unused)


def _length(media: Media) -> str:
    seconds = facts_of(media).seconds
    return "longer" if seconds is None else f"{seconds:.1f} seconds"
