"""Every odd picture ends in a good item or an error that says why; and the corpus of all kinds of media is large."""

from __future__ import annotations

import re
from pathlib import Path

import hostile_audio
import hostile_document
import hostile_features
import hostile_image
import hostile_medical
import hostile_points
import hostile_video
import pytest
from omnivit_encoders.timm.encoder import TimmConfig, TimmEncoder

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError

KINDS = (
    hostile_image,
    hostile_video,
    hostile_audio,
    hostile_points,
    hostile_medical,
    hostile_document,
    hostile_features,
)


def test_every_picture_ends_well_or_says_why(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    process = TimmEncoder(TimmConfig("test_resnet")).processor()
    for name, expected in hostile_image.files(root).items():
        media = Media("image", name, str(root))
        if expected == "good":
            assert process(media)["pixels"].isfinite().all(), name
            continue
        with pytest.raises(MediaError) as caught:
            process(media)
        assert re.search(expected, str(caught.value)), f"{name}: {caught.value}"
        assert Path(name).name in str(caught.value)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # pydicom, of the files that are wrong on purpose
def test_the_corpus_is_large(tmp_path: Path) -> None:
    counts = {}
    for kind in KINDS:
        folder = tmp_path / kind.__name__
        folder.mkdir()
        counts[kind.__name__.removeprefix("hostile_")] = len(kind.files(folder))
    print(counts, sum(counts.values()))
    assert sum(counts.values()) >= 300 and min(counts.values()) >= 20
