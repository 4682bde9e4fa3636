"""The encoder `video`: an image encoder's rows frame by frame, in a batch as alone; what comes between the frames."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omnivit_encoders.clip import ClipConfig, ClipEncoder
from omnivit_encoders.video.encoder import VideoConfig, VideoEncoder
from PIL import Image
from torch import Tensor
from transformers import AutoModel

from omnivit.contracts.encoder import GridProcessor, layout_of
from omnivit.contracts.options import merge_options
from omnivit.contracts.sample import Frames, Media
from omnivit.data.collate import _stacked
from omnivit.errors import MediaError, RecipeError

CLIP = {
    "name": "clip",
    "config": {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    },
}


def medium(frames: int, seed: int | None = None) -> Media:
    array = np.random.default_rng(frames).integers(0, 256, (frames, 40, 50, 3), dtype=np.uint8)
    return Media("video", array, seed=seed)


def made(**options: Any) -> VideoEncoder:
    torch.manual_seed(0)
    return VideoEncoder(VideoConfig(encoder=CLIP, **options)).eval()


def batch(*items: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: _stacked([item[key] for item in items]) for key in items[0]}


def stirred(encoder: VideoEncoder) -> VideoEncoder:
    """With weights in the temporal part that do something."""
    assert encoder.temporal is not None
    for parameter in encoder.temporal.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def test_rows_are_those_of_the_image_encoder_frame_by_frame() -> None:
    encoder, media = made(frames=4), medium(4)
    item = encoder.processor()(media)
    features = encoder(batch(item))
    inside = encoder.encoder
    assert isinstance(inside, ClipEncoder)
    for number, frame in enumerate(media.source):
        alone = inside(batch(inside.processor()(Media("image", Image.fromarray(frame)))))
        assert torch.allclose(features.values[0, 4 * number : 4 * number + 4], alone.values[0], atol=1e-6)
    assert features.grid is not None and features.grid[0, :6].tolist() == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 0],
        [0, 1, 1],
        [1, 0, 0],
        [1, 0, 1],
    ]
    assert item["times"].tolist() == pytest.approx([0.0, 0.04, 0.08, 0.12])


@pytest.mark.parametrize("temporal", ["none", "positions", "transformer"])
def test_a_clip_gives_in_a_batch_what_it_gives_alone(temporal: str) -> None:
    encoder = made(frames=5, temporal=temporal, heads=2)
    if temporal != "none":
        stirred(encoder)
    processor = encoder.processor()
    items = [processor(medium(count)) for count in (5, 2, 9)]
    together = encoder(batch(*items))
    for number, item in enumerate(items):
        alone, mask = encoder(batch(item)), together.mask[number]
        assert int(mask.sum()) == processor.length(item) == alone.values.shape[1]
        assert torch.allclose(together.values[number][mask], alone.values[0], atol=1e-5)
        assert (together.values[number][~mask] == 0).all()
        assert together.grid is not None and alone.grid is not None
        assert (together.grid[number][mask] == alone.grid[0]).all()


def test_layout_is_known_before_the_model_runs() -> None:
    processor = made(frames=6).processor()
    assert isinstance(processor, GridProcessor)
    assert layout_of(processor, processor(medium(20))).grid == (6, 2, 2)
    assert layout_of(processor, processor(medium(3))).tokens == 12


@pytest.mark.parametrize("temporal", ["positions", "transformer"])
def test_what_comes_between_the_frames_begins_as_nothing_and_then_tells_the_order(temporal: str) -> None:
    encoder, plain = made(frames=4, temporal=temporal, heads=4), made(frames=4)
    item = batch(encoder.processor()(medium(4)))
    assert torch.allclose(encoder(item).values, plain(item).values, atol=1e-6)
    stirred(encoder)
    still = {**item, "pixels": item["pixels"][:, :1].expand(-1, 4, -1, -1, -1)}
    frames = encoder(still).values.unflatten(1, (4, 4))
    assert not torch.allclose(frames[:, 0], frames[:, 1], atol=1e-3)


def test_frames_see_each_other_only_through_the_transformer() -> None:
    for temporal, seen in (("none", False), ("positions", False), ("transformer", True)):
        encoder = made(frames=3, temporal=temporal, heads=2)
        if temporal != "none":
            stirred(encoder)
        item = batch(encoder.processor()(medium(3)))
        before = encoder(item).values[0, :4]
        item["pixels"][:, 2] += 1
        assert torch.allclose(before, encoder(item).values[0, :4], atol=1e-6) != seen


def test_only_a_few_frames_pass_through_at_once() -> None:
    encoder, other = made(frames=5, batch_size=2), made(frames=5)
    sizes: list[int] = []
    encoder.encoder.register_forward_hook(lambda _, args, __: sizes.append(len(args[0]["pixels"])))
    item = batch(encoder.processor()(medium(5)), encoder.processor()(medium(2)))
    assert torch.allclose(encoder(item).values, other(item).values, atol=1e-6)
    assert sizes == [2, 2, 2, 1]


def test_random_frames_are_a_function_of_the_seed() -> None:
    processor = made(frames=3, sampling="segment_random").processor()
    first, again, other, none = (processor(medium(60, seed))["times"].tolist() for seed in (1, 1, 2, None))
    assert first == again != other
    assert none == pytest.approx([0.4, 1.2, 2.0])


def test_processor_pickles_small_and_its_fingerprint_tells_settings() -> None:
    processor = made(frames=3).processor()
    pickled = pickle.dumps(processor)
    assert len(pickled) < 20_000
    again = pickle.loads(pickled)
    assert all(torch.equal(value, again(medium(5))[key]) for key, value in processor(medium(5)).items())
    prints = {
        made(**options).processor().fingerprint()
        for options in ({}, {"frames": 3}, {"side": 64}, {"sampling": "head_tail"})
    }
    assert len(prints) == 4


def test_builds_without_weights_and_loads_those_of_the_image_encoder(tmp_path: Path) -> None:
    torch.manual_seed(1)
    inside = ClipEncoder(ClipConfig(config=CLIP["config"], layer=-1))  # type: ignore[arg-type]
    whole = AutoModel.from_config(inside.tower.config)
    whole.load_state_dict(inside.tower.state_dict(), strict=False)
    whole.save_pretrained(tmp_path)
    inside.processor().process.save_pretrained(tmp_path)
    block = {"name": "clip", "path": str(tmp_path), "layer": -1}
    with torch.device("meta"):
        VideoEncoder(VideoConfig(encoder=block, temporal="transformer", heads=2))
    encoder = VideoEncoder(VideoConfig(encoder=block, frames=2)).eval()
    encoder.load()
    item = encoder.processor()(medium(2))
    expected = inside.eval()({"pixels": item["pixels"]}).values.flatten(0, 1)
    assert torch.allclose(encoder(batch(item)).values[0], expected, atol=1e-6)


def test_inspect_and_errors(tmp_path: Path) -> None:
    assert VideoEncoder.inspect(medium(7)).shape == {"frames": 7, "height": 40, "width": 50}
    (tmp_path / "a.mp4").write_text("no clip")
    with pytest.raises(MediaError, match=r"a\.mp4: is not a video"):
        made().processor()(Media("video", "a.mp4", root=str(tmp_path)))
    with pytest.raises(RecipeError, match=r"width \(16\) is not a multiple of `heads` \(3\)"):
        made(temporal="transformer", heads=3)
    with pytest.raises(RecipeError, match="VideoEncoder' reads 'video' media"):
        VideoEncoder(VideoConfig(encoder={"name": "omnivit_encoders.video.encoder:VideoEncoder", "encoder": CLIP}))


@pytest.mark.parametrize(
    "options", [{"frames": 0}, {"sampling": "fps"}, {"fps": 2.0}, {"side": 0}, {"sampling": "odd"}]
)
def test_options_without_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="encoder"):
        merge_options(VideoConfig, {"encoder": CLIP, **options}, "model.inputs.video.encoder")


def test_timestamps_are_those_of_videochat_and_video_llama(tmp_path: Path) -> None:
    """`The video contains {} frames sampled at {} seconds.` with `str(round(index / fps, 1))` of each frame, joined by
    commas (DAMO-NLP-SG/Video-LLaMA, video_processor.py; OpenGVLab/Ask-Anything, video_chat/dataset/it_dataset.py)."""
    plain, timed = (made(frames=4, timestamps=value).processor() for value in (False, True))
    pictures = [tmp_path / f"{number}.png" for number in range(8)]
    for path in pictures:
        Image.new("RGB", (40, 40)).save(path)
    item = timed(Media("video", Frames(tuple(map(str, pictures)), fps=2.0)))
    assert plain.description(item) == ""
    for untimed in (Media("video", Frames(tuple(map(str, pictures)))), medium(9)):
        assert plain.description(plain(untimed)) == ""
        with pytest.raises(MediaError, match="the times of its frames are not known"):
            timed(untimed)
    seconds = ", ".join(str(round(time, 1)) for time in item["times"].tolist())
    assert timed.description(item) == f" The video contains 4 frames sampled at {seconds} seconds. "
    item["times"] = torch.tensor([0.0, 31, 62, 93]) / 29.97
    assert timed.description(item) == " The video contains 4 frames sampled at 0.0, 1.0, 2.1, 3.1 seconds. "
    assert plain.fingerprint() != timed.fingerprint()
    assert plain.fingerprint() == f"video {plain.sampling} {plain.side} {plain.inside.fingerprint()}"
