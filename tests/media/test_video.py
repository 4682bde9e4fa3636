"""Clips: which frames, when they are shown, upright, bounded, whichever library reads them, whatever the file."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from hostile_video import files
from PIL import Image
from video_files import picture, turned, write_clip

from omnivit.contracts.sample import Frames, Media
from omnivit.errors import MediaError, PluginError
from omnivit.media import isolate
from omnivit.media.locate import opened
from omnivit.media.video import read as video
from omnivit.media.video import stream as video_stream
from omnivit.media.video.decode import Decoded, decode, fitted
from omnivit.media.video.read import Sampling, Video, facts_of, frames_at, read_frames


def decoded(
    path: Path, sampling: Sampling, with_decord: bool, seed: int | None = None, side: int | None = None
) -> Decoded:
    """What runs in the helper process, in this one."""
    with opened(medium(path)) as source:
        return decode([source], 25.0, sampling, seed, side, 10**8, with_decord)


def medium(source: object, seed: int | None = None) -> Media:
    return Media("video", str(source) if isinstance(source, Path) else source, seed=seed)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", 50)


def test_uniform_takes_the_middle_of_equal_segments(clip: Path) -> None:
    found = read_frames(medium(clip), Sampling(frames=5))
    assert found.times == pytest.approx([0.2, 0.6, 1.0, 1.4, 1.8])
    assert (found.seconds, found.total, found.frames.shape) == (pytest.approx(2.0), 50, (5, 48, 64, 3))
    for frame, number in zip(found.frames, (5, 15, 25, 35, 45), strict=True):
        assert np.abs(frame.astype(int) - picture(number)).mean() < 4


def test_samplings_choose_as_they_say() -> None:
    times = [number / 10 for number in range(100)]
    assert Sampling(frames=4).choose(times, 10.0, None) == [12, 37, 62, 87]
    assert Sampling("head_tail", 4).choose(times, 10.0, None) == [0, 33, 66, 99]
    assert Sampling("head_tail", 1).choose(times, 10.0, None) == [0]
    assert Sampling("fps", 20, 1.0).choose(times, 10.0, None) == list(range(0, 100, 10))
    assert Sampling("fps", 4, 1.0).choose(times, 10.0, None) == [12, 37, 62, 87]
    assert Sampling("fps", 4, 0.01).choose(times, 10.0, None) == [0]


def test_frames_of_a_variable_rate_are_spread_over_time() -> None:
    """Four still seconds, then one with 40 frames: eight frames of five seconds are not all of the last one."""
    times = [0.0, 1.0, 2.0, 3.0, *(4 + number / 40 for number in range(40))]
    spread = [times[number] for number in Sampling(frames=10).choose(times, 5.0, None)]
    assert spread == pytest.approx([0.0, 1.0, 2.0, 3.0, 4.25, 4.75])
    assert Sampling("fps", 10, 25.0).choose(times, 5.0, None) == Sampling(frames=10).choose(times, 5.0, None)
    ends = [times[number] for number in Sampling("head_tail", 6).choose(times, 5.0, None)]
    assert ends == pytest.approx([0.0, 1.0, 2.0, 3.0, 4.0, 4.975])
    drawn = Sampling("segment_random", 5).choose(times, 5.0, 1)
    assert drawn[:4] == [0, 1, 2, 3] and drawn[4] >= 4
    assert len(Sampling(frames=10, repeat=True).choose(times, 5.0, None)) == 10


def test_times_that_a_container_rounds_are_those_of_a_constant_rate() -> None:
    exact = [number / 30 for number in range(300)]
    rounded = [round(moment, 3) for moment in exact]
    for kind in ("uniform", "head_tail", "segment_random"):
        for count in (7, 10, 100):
            sampling = Sampling(kind, count)  # type: ignore[arg-type]
            assert sampling.choose(exact, 10.0, 3) == sampling.choose(rounded, 10.033, 3)


def test_random_places_are_inside_their_segments_and_a_function_of_the_seed() -> None:
    times, sampling = [float(number) for number in range(100)], Sampling("segment_random", 10)
    first = sampling.choose(times, 100.0, 1)
    assert all(10 * place <= number < 10 * place + 10 for place, number in enumerate(first))
    assert first == sampling.choose(times, 100.0, 1) != sampling.choose(times, 100.0, 2)
    assert sampling.choose(times, 100.0, None) == Sampling(frames=10).choose(times, 100.0, None)


@pytest.mark.parametrize("kind", ["uniform", "segment_random", "head_tail", "fps"])
def test_short_clips_give_each_frame_once_or_repeat(kind: str) -> None:
    fps = 25.0 if kind == "fps" else None
    times = [0.0, 0.04, 0.08]
    assert Sampling(kind, 8, fps).choose(times, 0.12, 3) == [0, 1, 2]  # type: ignore[arg-type]
    repeated = Sampling(kind, 8, fps, repeat=True).choose(times, 0.12, 3)  # type: ignore[arg-type]
    assert len(repeated) == 8 and repeated == sorted(repeated) and set(repeated) == {0, 1, 2}


@pytest.mark.parametrize("options", [{"frames": 0}, {"kind": "fps"}, {"fps": 1.0}, {"kind": "fps", "fps": 0.0}])
def test_samplings_without_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"frames|fps"):
        Sampling(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_times_of_a_variable_rate_come_from_the_file(tmp_path: Path, container: str) -> None:
    stamps = [0, 40, 80, 500, 1000, 1040]
    path = write_clip(tmp_path / f"uneven.{container}", 6, stamps=stamps)
    found = read_frames(medium(path), Sampling(frames=6))
    assert found.times == pytest.approx([stamp / 1000 for stamp in stamps], abs=1e-3)
    by_rate = read_frames(medium(path), Sampling("fps", 8, 4.0))
    assert by_rate.times == pytest.approx([0.0, 0.08, 0.5], abs=1e-3)


def test_frames_at_gives_what_is_shown_in_the_order_asked_for(clip: Path) -> None:
    found = frames_at(medium(clip), [1.05, 0.0, 0.039, 99.0, -1.0])
    assert found.times == pytest.approx([1.04, 0.0, 0.0, 1.96, 0.0])
    assert (found.frames[1] == found.frames[4]).all() and (found.frames[0] != found.frames[1]).any()


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("with_decord", [True, False])
def test_turned_clips_are_upright_by_either_library(
    tmp_path: Path, clip: Path, degrees: int, with_decord: bool
) -> None:
    path = turned(clip, tmp_path / "turned.mp4", degrees) if degrees else clip
    found = decoded(path, Sampling(frames=2), with_decord)
    expected = np.rot90(picture(12), -degrees // 90)
    assert found.frames.shape[1:] == expected.shape
    assert np.abs(found.frames[0].astype(int) - expected).mean() < 4
    facts = facts_of(medium(path))
    assert (facts.shape["height"], facts.shape["width"]) == expected.shape[:2]


@pytest.mark.parametrize(("codec", "name"), [("libx264", "a.mp4"), ("libvpx-vp9", "a.webm"), ("mpeg4", "a.avi")])
def test_decord_and_pyav_agree(tmp_path: Path, codec: str, name: str) -> None:
    path = write_clip(tmp_path / name, 30, (96, 128), codec)
    for sampling in (Sampling(frames=7), Sampling("head_tail", 4), Sampling("segment_random", 5)):
        first, second = (decoded(path, sampling, way, 3) for way in (True, False))
        assert first.notes == second.notes == ()
        assert first.times == second.times and (first.frames == second.frames).all()


@pytest.mark.parametrize(
    ("codec", "name", "container"),
    [
        ("mpeg2video", "a.ts", "mpegts"),
        ("mpeg2video", "a.mpg", "vob"),
        ("flv", "a.flv", "flv"),
        ("wmv2", "a.wmv", "asf"),
    ],
)
def test_streams_without_an_index_give_the_frames_asked_for(
    tmp_path: Path, codec: str, name: str, container: str
) -> None:
    path = write_clip(tmp_path / name, 24, codec=codec, container=container)
    every = read_frames(medium(path), Sampling(frames=24))
    some = read_frames(medium(path), Sampling(frames=3))
    assert len(every.frames) == 24 and some.times == tuple(every.times[number] for number in (4, 12, 20))
    assert (some.frames == every.frames[[4, 12, 20]]).all()
    assert np.abs(every.frames[20].astype(int) - picture(20)).mean() < 15  # a coarse codec; frame 4 is 27 away


def test_scaled_while_decoding_by_either_library(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 10, (144, 256))
    first, second = (decoded(path, Sampling(frames=3), way, side=72) for way in (True, False))
    assert first.frames.shape == second.frames.shape == (3, 72, 128, 3)
    assert np.abs(first.frames.astype(int) - second.frames).mean() < 0.5


def test_frames_are_bounded_by_side_and_bytes(clip: Path) -> None:
    assert read_frames(medium(clip), Sampling(frames=3), side=24).frames.shape == (3, 24, 32, 3)
    assert read_frames(medium(clip), Sampling(frames=3), side=480).frames.shape == (3, 48, 64, 3)
    height, width = fitted(4320, 7680, None, video.MAX_CLIP_BYTES // 100)
    assert height * width * 3 <= 1.01 * video.MAX_CLIP_BYTES / 100 and width / height == pytest.approx(16 / 9, rel=0.01)


def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "long.mp4", 3000, (48, 64), options={}, key_every=100)
    read_frames(medium(path), Sampling(frames=8))
    status = Path(f"/proc/{isolate._helper._process.pid}/status").read_text()  # type: ignore[union-attr]
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]
    assert peak < 400_000, "kB"


def test_too_many_pixels_are_refused_before_decoding(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_stream, "MAX_FRAME_PIXELS", 1000)
    with pytest.raises(MediaError, match="the frames have 64 x 48 pixels, more than the limit of 1,000"):
        decoded(clip, Sampling(), True)


def test_without_decord_pyav_reads(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_decord = decoded(clip, Sampling(frames=3), True)
    monkeypatch.setitem(sys.modules, "decord", None)
    found = decoded(clip, Sampling(frames=3), True)
    assert "decord cannot be imported" in found.notes[0] and found.notes[0].endswith("read by PyAV")
    assert (found.frames == by_decord.frames).all()


def test_a_crash_of_decord_costs_nothing_but_time(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "decord.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(isolate, "_helper", None)
    video._logged.clear()
    with caplog.at_level(logging.WARNING):
        found = read_frames(medium(clip), Sampling(frames=3))
    assert len(found.frames) == 3 and "crashed (SIGSEGV)" in caplog.text and "read by PyAV" in caplog.text


def test_without_pyav_it_is_said_what_to_install(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "av.py").write_text("raise ImportError('no av here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(isolate, "_helper", None)
    with pytest.raises(PluginError, match=r"no av here.*pip install"):
        read_frames(medium(clip), Sampling(frames=3))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animations_have_the_durations_that_they_state(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(picture(number)) for number in (0, 10, 20)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=[100, 300, 50], lossless=True)
    found = read_frames(medium(tmp_path / name), Sampling(frames=8))
    assert found.times == pytest.approx((0.0, 0.1, 0.4)) and found.seconds == pytest.approx(0.45)
    assert np.abs(found.frames[1].astype(int) - picture(10)).mean() < 12  # GIF has 256 colours
    assert frames_at(medium(tmp_path / name), [0.2], side=24).frames.shape == (1, 24, 32, 3)


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_frames(medium(tmp_path / "clear.png"), Sampling()).frames == 255).all()


def test_clips_in_memory(clip: Path) -> None:
    array = np.stack([picture(number) for number in range(50)])
    found = read_frames(medium(array), Sampling(frames=2))
    assert (found.frames == array[[12, 37]]).all() and found.times == (0.48, 1.48) and found.seconds == 2.0
    pictures = read_frames(medium([Image.fromarray(frame) for frame in array[:3]]), Sampling(frames=8), side=24)
    assert pictures.frames.shape == (3, 24, 32, 3)
    of_bytes = read_frames(medium(clip.read_bytes()), Sampling(frames=2))
    assert (of_bytes.frames == read_frames(medium(clip), Sampling(frames=2)).frames).all()
    assert facts_of(medium(array)).shape == {"frames": 50, "height": 48, "width": 64}


def test_frames_in_files_of_their_own_are_a_clip(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    names = [f"clip/{number}.png" for number in range(8, 13)]  # 8, 9, 10, ...: not in the order of their letters
    for number, name in enumerate(names):
        Image.fromarray(picture(20 * number)).save(tmp_path / name)
    expected = np.stack([picture(20 * number) for number in range(5)])
    for source in (names, tuple(names), "clip", Frames(tuple(names))):
        found = read_frames(Media("video", source, str(tmp_path)), Sampling(frames=8))
        assert (found.frames == expected).all() and found.times == pytest.approx([k / 25 for k in range(5)])
    slow = Media("video", Frames(tuple(names), fps=2.0), str(tmp_path))
    assert read_frames(slow, Sampling("fps", 8, 1.0)).times == pytest.approx([0.0, 1.0])
    facts = facts_of(slow)
    assert facts.shape == {"frames": 5, "height": 48, "width": 64} and facts.seconds == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["0.png", "../out.png"], "contains `..`"),
        (["0.png", "gone.png"], "no such file"),
        (["0.png", "wide.png"], r"wide.png: has 20 x 10 pixels, but the first frame .*0.png has 10 x 10"),
        (["0.png", "notes.txt"], "notes.txt: is not an image"),
        ([], "is not a video"),
    ],
)
def test_frames_that_make_no_clip_are_refused(tmp_path: Path, names: list[str], reason: str) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "0.png")
    Image.new("RGB", (20, 10)).save(tmp_path / "wide.png")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(MediaError, match=reason):
        read_frames(Media("video", names, str(tmp_path)), Sampling())


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((2, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((0, 4, 4, 3), np.uint8),
        [],
        [Image.new("RGB", (2, 2)), Image.new("RGB", (3, 2))],
        ["a.png"],
        b"no clip",
        7,
    ],
)
def test_what_is_no_clip_in_memory_is_refused(source: object) -> None:
    with pytest.raises(MediaError):
        read_frames(medium(source), Sampling())


def test_look_tells_what_a_file_holds(clip: Path) -> None:
    facts = facts_of(medium(clip))
    assert facts.kind == "video" and facts.shape == {"frames": 50, "height": 48, "width": 64}
    assert facts.seconds == pytest.approx(2.0) and facts.details == {"codec": "h264", "container": "MP4 or MOV"}


def test_a_cover_picture_is_no_clip(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.m4a"), "w", format="mp4") as file:
        sound = file.add_stream("aac", rate=16000, layout="mono")
        cover = file.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*cover.encode(av.VideoFrame(32, 32, "yuvj420p")), *cover.encode(), *sound.encode(frame)]:
            file.mux(packet)
        file.mux(sound.encode())
    with pytest.raises(MediaError, match="contains audio and no video"):
        read_frames(medium(tmp_path / "song.m4a"), Sampling())


def test_hostile_files_end_well_or_with_their_name_and_reason(tmp_path: Path) -> None:
    folder = tmp_path / "root"
    folder.mkdir()
    expected = files(folder)
    assert len(expected) >= 40
    failed = [f"{name}: {why}" for name, wanted in expected.items() if (why := _ending(folder, name, wanted))]
    assert not failed, "\n".join(failed)


def _ending(folder: Path, name: str, wanted: str) -> str:
    """What went otherwise than wanted."""
    began = time.monotonic()
    try:
        found: Video | str = read_frames(Media("video", name, root=str(folder)), Sampling(frames=4))
    except MediaError as error:
        found = str(error)
    if (took := time.monotonic() - began) > 10:
        return f"took {took:.1f} s"
    if isinstance(found, Video):
        good = "good" in wanted.split("|") and found.frames.shape[0] == len(found.times) > 0
        return "" if good else f"was read, but {wanted!r} was expected"
    if name.removeprefix("../") not in found:
        return f"is not named in {found!r}"
    return "" if re.search(wanted, found) else f"{found!r} does not say {wanted!r}"


def test_files_are_not_read_through_the_network_or_lists(tmp_path: Path) -> None:
    """A list that names a good clip beside it is still no clip."""
    write_clip(tmp_path / "good.mp4", 4)
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path}/good.mp4\n")
    with pytest.raises(MediaError, match="not a video in a supported format"):
        facts_of(medium(tmp_path / "list.mp4"))
    with pytest.raises(MediaError, match="not a video in a supported format"):
        facts_of(medium(io.BytesIO(b"ffconcat version 1.0").getvalue()))
