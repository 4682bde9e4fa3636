"""What a file holds, as `omnivit media` tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class MediaFacts:
    """A medium in words and numbers, found without a model."""

    kind: str
    """What it is: `image`, `video`, `audio`, `points`, `volume`, `pages`, ..."""
    shape: Mapping[str, int]
    """Its sizes by name, such as {"frames": 250, "height": 360, "width": 640}."""
    seconds: float | None = None
    """How long it lasts; None where it does not."""
    details: Mapping[str, str] = field(default_factory=dict)
    """More that helps a person, such as the codec. Never what identifies a patient."""
    slot: str = ""
    """The input slot that it is for, told by an encoder that reads media of several kinds; else it is the modality."""
