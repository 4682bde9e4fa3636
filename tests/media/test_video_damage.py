"""Damaged clips: frames that are what their times say, a word for each file, and a refusal where too little is left."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from video_files import cut, picture, write_clip

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media.video.read import Sampling, facts_of, frames_at, inspect, read_frames


def medium(source: Path) -> Media:
    return Media("video", str(source))


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 frames, all of them key frames, the index in front."""
    path = tmp_path_factory.mktemp("indexed") / "whole.mp4"
    return write_clip(path, 50, key_every=1, options={"movflags": "faststart"})


def blanked(source: Path, path: Path, first: float, last: float) -> Path:
    """A copy of which a part of the frames' bytes are zeros."""
    content = bytearray(source.read_bytes())
    start = content.index(b"mdat") + 4
    here, there = (start + int((len(content) - start) * share) for share in (first, last))
    content[here:there] = bytes(there - here)
    path.write_bytes(content)
    return path


def test_what_is_left_of_a_damaged_clip_is_read_and_said_of_each_file(
    indexed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [cut(indexed, tmp_path / name, 0.8, b"mdat") for name in ("a.mp4", "b.mp4")]
    with caplog.at_level(logging.WARNING):
        clips = [read_frames(medium(path), Sampling(frames=6)) for path in (*paths, *paths)]
    assert 35 < clips[0].total < 45 and len(clips[0].frames) == 6
    said = [record.message for record in caplog.records if "frames can be read" in record.message]
    count = f"is damaged or cut short: {clips[0].total} of its 50 frames can be read"
    assert said == [f"{path}: {count}" for path in paths]
    assert facts_of(medium(paths[0])).details["damage"] == count


@pytest.mark.parametrize(("first", "last"), [(0.75, 1.0), (0.3, 0.6)])
@pytest.mark.parametrize("sampling", [Sampling(frames=8), Sampling("head_tail", 8), Sampling("fps", 50, 25.0)])
def test_frames_beyond_damage_are_not_copies_of_the_last_good_one(
    indexed: Path, tmp_path: Path, sampling: Sampling, first: float, last: float
) -> None:
    path = blanked(indexed, tmp_path / "zeros.mp4", first, last)
    clip = read_frames(medium(path), sampling)
    assert 6 <= len(clip.frames) == len(clip.times) == len(set(clip.times))
    for frame, moment in zip(clip.frames, clip.times, strict=True):
        assert np.abs(frame.astype(int) - picture(round(25 * moment))).mean() < 4
    placed = frames_at(medium(path), [0.0, 1.0, 1.9])  # callers that name moments get as many frames
    for frame, moment in zip(placed.frames, placed.times, strict=True):
        assert np.abs(frame.astype(int) - picture(round(25 * moment))).mean() < 4
    repeated = read_frames(medium(path), Sampling(frames=60, repeat=True))
    assert len(repeated.frames) == len(repeated.times) == 60


def test_a_clip_of_which_less_than_half_can_be_read_is_refused(indexed: Path, tmp_path: Path) -> None:
    short = cut(indexed, tmp_path / "short.mp4", 0.4, b"mdat")
    zeros = blanked(indexed, tmp_path / "zeros.mp4", 0.4, 1.0)
    for path in (short, zeros):
        with pytest.raises(MediaError, match=r"(\d+) of its 50 frames can be read, less than the share 0.5"):
            read_frames(medium(path), Sampling(frames=6))
    with pytest.raises(MediaError, match=r"of its 50 frames can be read, less than the share 0.5"):
        inspect(medium(short))
    assert "of its 50 frames" in facts_of(medium(short)).details["damage"]


def test_a_count_in_the_header_that_is_too_high_costs_no_frame(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "motion.avi", 12, codec="mjpeg")
    content = bytearray(path.read_bytes())
    for place in (content.index(b"avih") + 8 + 16, content.index(b"strh") + 8 + 32):
        content[place : place + 4] = (431).to_bytes(4, "little")
    path.write_bytes(content)
    assert len(read_frames(medium(path), Sampling(frames=20)).frames) == 12
    assert (
        facts_of(medium(path)).details["damage"].startswith("its header declares 431 frames, but the file contains 12")
    )
