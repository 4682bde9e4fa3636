"""Sounds from files and from memory: every format and rate, the part that is wanted, and every refusal."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sounds import RATE, tone, write, write_av

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError, PluginError
from omnivit.media import audio_decode
from omnivit.media.audio import facts_of, read_audio
from omnivit.media.locate import opened


def read(source: object, rate: int = RATE, **options: Any) -> np.ndarray[Any, Any]:
    return read_audio(Media("audio", str(source) if isinstance(source, Path) else source), rate, **options)


@pytest.mark.parametrize(
    ("name", "subtype", "error"),
    [
        ("a.wav", "PCM_U8", 8e-3), ("a.wav", "PCM_16", 4e-5), ("a.wav", "PCM_24", 2e-7), ("a.wav", "PCM_32", 1e-7),
        ("a.wav", "FLOAT", 0.0), ("a.wav", "DOUBLE", 0.0), ("a.wav", "ULAW", 0.02), ("a.flac", "PCM_S8", 8e-3),
        ("a.flac", "PCM_24", 2e-7), ("a.aiff", "PCM_16", 4e-5), ("a.ogg", "VORBIS", 0.03), ("a.ogg", "OPUS", 0.05),
        ("a.mp3", "MPEG_LAYER_III", 0.03), ("a.caf", "PCM_16", 4e-5), ("a.w64", "PCM_16", 4e-5),
    ],
)  # fmt: skip
def test_formats(tmp_path: Path, name: str, subtype: str, error: float) -> None:
    sound = tone()
    path = write(tmp_path / name, sound, subtype=subtype)
    found = read(path)
    assert found.dtype == np.float32 and found.shape == sound.shape
    inner = slice(2000, -2000) if error > 0.01 else slice(None)  # lossy codecs blur the ends
    assert np.abs(found - sound)[inner].max() <= error
    assert np.array_equal(read(path.read_bytes()), found)  # the same from memory


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.mkv", "libmp3lame"), ("a.webm", "libopus")])
def test_containers_that_libsndfile_does_not_know(
    tmp_path: Path, name: str, codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    rate = 48_000 if codec == "libopus" else RATE
    path = write_av(tmp_path / name, tone(1.0, rate), rate, codec)
    with caplog.at_level(logging.INFO, logger="omnivit"):
        found = read(path)
    assert "decoded by FFmpeg (PyAV)" in caplog.text
    assert len(found) == pytest.approx(RATE, abs=1600)
    expected = np.abs(np.fft.rfft(found)).argmax() * RATE / len(found)
    assert expected == pytest.approx(440, abs=2)
    facts = facts_of(Media("audio", str(path)))
    assert facts.kind == "audio" and facts.shape["channels"] == 1 and facts.details["decoder"] == "FFmpeg (PyAV)"
    assert facts.seconds == pytest.approx(1.0, abs=0.2)  # codecs count their padding


@pytest.mark.parametrize("rate", [4000, 8000, 11_025, 22_050, 44_100, 44_101, 48_000, 96_000, 192_000])
def test_rates(tmp_path: Path, rate: int) -> None:
    found = read(write(tmp_path / "a.wav", tone(1.0, rate), rate))
    assert found.shape == (RATE,)
    assert np.abs(found - tone())[1000:-1000].max() < 2e-3


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(), tone(hertz=1000)
    stereo = write(tmp_path / "a.wav", np.stack([left, right], 1), subtype="FLOAT")
    assert np.allclose(read(stereo), (left + right) / 2, atol=1e-7)
    six = write(tmp_path / "b.wav", np.stack([left] + [np.zeros_like(left)] * 5, 1), subtype="FLOAT")
    assert np.allclose(read(six), left / 6, atol=1e-7)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.m4a"])
def test_only_the_wanted_part(tmp_path: Path, name: str) -> None:
    rising = tone(4.0) * np.linspace(0, 1, 4 * RATE, dtype=np.float32)
    path = tmp_path / name
    write_av(path, rising) if name == "a.m4a" else write(path, rising)
    part = read(path, seconds=1.0, start=2.0)
    assert part.shape == (RATE,)
    assert np.abs(part).max() == pytest.approx(0.375, abs=0.02)  # half of full scale, three quarters through
    assert len(read(path, seconds=100.0)) == pytest.approx(4 * RATE, abs=1600)
    assert len(read(path, start=3.5)) == pytest.approx(RATE // 2, abs=1600)
    with pytest.raises(MediaError, match=r"contains no audio after the first 9 seconds"):
        read(path, start=9.0)


def test_a_long_file_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_decode, "MAX_SAMPLES", RATE)
    source = opened(Media("audio", write(tmp_path / "a.wav", tone(4.0))))
    assert len(audio_decode.decode(source, 0.0, 0.5).samples) == RATE // 2
    with pytest.raises(MediaError, match=r"the audio has 64,000 samples, more than the limit of 16,000"):
        audio_decode.decode(source, 0.0, None)
    with pytest.raises(MediaError, match=r"seconds at 48,000 Hz, more than the limit"):
        read((tone(1.0), RATE), 48_000)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([0, 16384, -32768], np.int16), [0, 0.5, -1]),
        (np.array([128, 192, 0], np.uint8), [0, 0.5, -1]),
        (np.array([0, 2**30, -(2**31)], np.int32), [0, 0.5, -1]),
        (np.array([0, 0.5, -1], np.float64), [0, 0.5, -1]),
        (np.array([[1.0, 0.5, 0.25], [0.0, 0.5, 0.25]]), [0.5, 0.5, 0.25]),
        ([0.0, 0.5, -1.0], [0, 0.5, -1]),
    ],
)
def test_sounds_in_memory(array: Any, expected: list[float]) -> None:
    found = read((array, RATE))
    assert found.dtype == np.float32 and found.tolist() == expected


def test_part_of_a_sound_in_memory() -> None:
    assert read((np.arange(8000) / 8000, 8000), 8000, seconds=0.001, start=0.5).tolist() == [
        pytest.approx((4000 + i) / 8000) for i in range(8)
    ]
    facts = facts_of(Media("audio", (tone(2.0), RATE)))
    assert (facts.seconds, facts.shape) == (2.0, {"channels": 1, "samples": 2 * RATE})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((tone(), RATE, 1), r"must be a tuple \(array, sampling rate in Hz"),
        ((tone(), 16e3), r"sampling rate in Hz as an integer"),
        ((np.zeros((2, 3, 4)), RATE), r"shape \[2, 3, 4\] is not audio"),
        ((np.zeros(9, bool), RATE), "an array of bool"),
        ((np.zeros((500, 2)), RATE), "Transpose it"),
        ((np.zeros(0), RATE), r"contains no audio \(0 samples\)"),
        ((np.array([0, np.nan]), RATE), "1 of 2 samples are NaN or infinite"),
        ((np.array([0.0, 3000.0]), RATE), "its samples reach 3000, but full scale is 1"),
        ((tone(), 1), "the sampling rate 1 Hz is outside 4,000 to 384,000 Hz"),
        (tone(), r"the sampling rate of an array is unknown"),
        (b"", "is empty"),
        (7, "but a path is expected"),
    ],
)
def test_bad_sounds_in_memory(source: object, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        read(source)


def test_facts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", np.stack([tone(2.0, 44_100)] * 2, 1), 44_100, "PCM_24")
    facts = facts_of(Media("audio", "a.flac", str(tmp_path)))
    assert (facts.kind, facts.seconds, facts.shape) == ("audio", 2.0, {"channels": 2, "samples": 88_200})
    assert facts.details == {"format": "FLAC", "samples": "PCM_24", "rate": "44100 Hz", "decoder": "libsndfile"}
    path.write_text("not a sound")
    with pytest.raises(MediaError, match=r"a\.flac: is not audio that can be decoded \(libsndfile: "):
        facts_of(Media("audio", "a.flac", str(tmp_path)))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="must be at least 0"):
        read((tone(), RATE), start=-1.0)
    with pytest.raises(ValueError, match="above 0"):
        read((tone(), RATE), seconds=0.0)


def test_missing_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio.functional", None)
    with pytest.raises(PluginError, match=r"torchaudio is needed to resample 8,000 Hz to 16,000 Hz.*omnivit\[audio\]"):
        read((tone(1.0, 8000), 8000))
    monkeypatch.setitem(sys.modules, "av", None)
    path = tmp_path / "a.m4a"
    path.write_bytes(b"no sound at all")
    with pytest.raises(MediaError, match=r"PyAV, which reads more containers, is not installed"):
        audio_decode.decode(opened(Media("audio", path)), 0.0, None)


def test_the_helper_process_imports_no_torch() -> None:
    code = "import sys, omnivit.media.audio; sys.exit('torch' in sys.modules or 'soundfile' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_truncated_file_says_how_much_there_was(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone())
    path.write_bytes(path.read_bytes()[:20_044])
    with pytest.raises(MediaError, match=r"is cut short: 10,000 samples of WAV could be read"):
        read(path)
    assert soundfile.info(path).frames == 10_000  # libsndfile alone says nothing


def test_hostile_files_end_well(tmp_path: Path) -> None:
    """Each in a good item or in a MediaError that says why, within ten seconds."""
    from hostile_audio import GOOD, files
    from omnivit_encoders.whisper.encoder import WhisperConfig, WhisperEncoder

    small = {"d_model": 8, "encoder_layers": 1, "encoder_attention_heads": 1, "encoder_ffn_dim": 8, "vocab_size": 9}
    process = WhisperEncoder(WhisperConfig(config={**small, "pad_token_id": 0}, windows=1)).processor()
    root = tmp_path / "root"
    root.mkdir()
    expected = files(root)
    assert len(expected) >= 40
    wrong = {}
    for name, reason in expected.items():
        began = time.monotonic()
        try:
            item = process(Media("audio", name, str(root)))
            outcome = GOOD if item["mels"].isfinite().all() and process.length(item) >= 1 else "not finite"
        except MediaError as error:
            outcome = str(error)
            assert name in outcome
        if not (outcome == GOOD if reason == GOOD else re.search(reason, outcome)):
            wrong[name] = outcome
        assert time.monotonic() - began < 30, name  # ten seconds on a quiet machine
    assert wrong == {}


@pytest.mark.parametrize("name", ["a.wav", "a.m4a"])
@pytest.mark.parametrize("other", [-1.0, -0.97])
def test_channels_that_cancel_each_other_out_are_not_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, other: float
) -> None:
    sound = tone()
    channels = np.stack([sound, other * sound], 1)
    path = tmp_path / name
    write(path, channels) if name == "a.wav" else write_av(path, np.ascontiguousarray(channels.T))
    with caplog.at_level(logging.WARNING):
        found = [read(path), read(path)][0]
    assert np.abs(found).max() == pytest.approx(np.abs(sound).max(), abs=0.05)
    said = [record.message for record in caplog.records if "cancel each other out" in record.message]
    assert len(said) == 1 and said[0].startswith(str(path))  # once for each file
    assert np.abs(read((channels.T, RATE))).max() > 0.3


def test_channels_that_do_not_cancel_each_other_out_are_averaged(caplog: pytest.LogCaptureFixture) -> None:
    sound, draw = tone(), np.random.default_rng(0)
    unrelated = draw.normal(size=(16, 16000)).astype(np.float32) / 10
    silent = np.zeros_like(sound)
    for channels in (np.stack([sound, silent]), np.stack([sound, -0.5 * sound]), unrelated, np.stack([silent, silent])):
        assert np.allclose(read((channels, RATE)), channels.mean(axis=0), atol=1e-7)
    assert not caplog.records
