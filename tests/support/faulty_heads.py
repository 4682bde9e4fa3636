"""Heads with one fault each, all made of one that has none: a box of four numbers for `[BOX]`.

Shapes: N occurrences of the token, D LLM width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omnivit.contracts.examples import HeadExample
from omnivit.contracts.head import Head, HeadOutput, TargetProcessor
from omnivit.contracts.sample import Target
from omnivit.data.head_targets import Numbers
from omnivit.errors import DataError, MediaError
from omnivit.media.arrays import read_array


@dataclass
class BoxConfig:
    """What a recipe may say."""

    hidden: int = 16
    """Width between the layers."""


class Box(Head):
    """Without a fault: states [N, D] -> boxes [N, 4], and their distances from those wanted."""

    contract = 1
    Config = BoxConfig
    token = "[BOX]"
    losses = ("box",)

    def __init__(self, config: BoxConfig, llm_width: int) -> None:
        super().__init__(config, llm_width)
        self.layers = nn.Sequential(nn.Linear(llm_width, config.hidden), nn.GELU(), nn.Linear(config.hidden, 4))

    def processor(self) -> TargetProcessor:
        return Numbers("box", (4,))

    def forward(self, states: Tensor, targets: Mapping[str, Tensor] | None = None) -> HeadOutput:
        boxes = self.boxes(states.to(self.layers[0].weight.dtype))  # type: ignore[arg-type]
        losses = {} if targets is None else {"box": self.loss(boxes, targets["box"])}
        return HeadOutput(losses, self.prediction(boxes))

    def boxes(self, states: Tensor) -> Tensor:
        found: Tensor = self.layers(states).sigmoid()
        return found

    def loss(self, boxes: Tensor, wanted: Tensor) -> Tensor:
        return (boxes - wanted).abs().sum()

    def prediction(self, boxes: Tensor) -> Any:
        return boxes

    @classmethod
    def example(cls, folder: Path) -> HeadExample:
        del folder
        return HeadExample(torch.rand(3, 4, generator=torch.Generator().manual_seed(0)).tolist())


class HasNoToken(Box):
    """Names no token."""

    token = ""


class LosesPerBox(Box):
    """Gives a loss for each box."""

    def loss(self, boxes: Tensor, wanted: Tensor) -> Tensor:
        return (boxes - wanted).abs().mean(dim=1)


class MeansOverBoxes(Box):
    """Gives the mean of the batch, which is that of no step."""

    def loss(self, boxes: Tensor, wanted: Tensor) -> Tensor:
        return (boxes - wanted).abs().mean()


class NamesAnotherLoss(Box):
    """Gives a loss that its class does not name."""

    losses = ("corners",)


class NeedsTargets(Box):
    """Cannot answer: it wants to be told."""

    def forward(self, states: Tensor, targets: Mapping[str, Tensor] | None = None) -> HeadOutput:
        assert targets is not None
        return super().forward(states, targets)


class PredictsTargets(Box):
    """Repeats what it is told."""

    def forward(self, states: Tensor, targets: Mapping[str, Tensor] | None = None) -> HeadOutput:
        found = super().forward(states, targets)
        return found if targets is None else HeadOutput(found.losses, targets["box"])


class Trusting:
    """Takes whatever it is given."""

    def __call__(self, target: Target) -> dict[str, Tensor]:
        return {"box": torch.tensor(target.source)}

    def fingerprint(self) -> str:
        return "trusting"


class TrustsTargets(Box):
    """A damaged data file ends in a traceback."""

    def processor(self) -> TargetProcessor:
        return Trusting()


class Owning(Numbers):
    """Holds the head."""

    def __init__(self, head: Head) -> None:
        super().__init__("box", (4,))
        object.__setattr__(self, "head", head)


class SendsItself(Box):
    """Its weights travel to every loader worker."""

    def processor(self) -> TargetProcessor:
        return Owning(self)


class DetachesStates(Box):
    """Does not train the LLM."""

    def boxes(self, states: Tensor) -> Tensor:
        return super().boxes(states.detach())


class HasSpareLayer(Box):
    """Has a layer that no loss depends on."""

    def __init__(self, config: BoxConfig, llm_width: int) -> None:
        super().__init__(config, llm_width)
        self.spare = nn.Linear(llm_width, 1)


class ComparesBoxes(Box):
    """A box depends on the others of the batch."""

    def prediction(self, boxes: Tensor) -> Any:
        return {"box": boxes, "score": boxes[:, 0].softmax(dim=0)}


class PredictsTheFirst(Box):
    """Gives the first box alone."""

    def prediction(self, boxes: Tensor) -> Any:
        return boxes[:1]


class ScalesTargets(Box):
    """Changes the targets that it is given."""

    def loss(self, boxes: Tensor, wanted: Tensor) -> Tensor:
        return super().loss(boxes, wanted.clamp_(0.25, 0.75))


class DropsAlways(Box):
    """Drops out while it is asked too."""

    def boxes(self, states: Tensor) -> Tensor:
        return super().boxes(nn.functional.dropout(states, 0.3, training=True))

    def prediction(self, boxes: Tensor) -> Any:
        del boxes


class CountsBoxes(Box):
    """A buffer moves in every pass."""

    def __init__(self, config: BoxConfig, llm_width: int) -> None:
        super().__init__(config, llm_width)
        self.register_buffer("seen", torch.zeros(()))

    def boxes(self, states: Tensor) -> Tensor:
        self.seen += len(states)
        return super().boxes(states)


class KeepsTensor(Box):
    """Holds a tensor that does not move with it."""

    def __init__(self, config: BoxConfig, llm_width: int) -> None:
        super().__init__(config, llm_width)
        self.sides = {"scale": torch.tensor([1.0, 1.0, 0.5, 0.5])}

    def boxes(self, states: Tensor) -> Tensor:
        return super().boxes(states) * self.sides["scale"]


class InsistsOnFloat(Box):
    """Takes states of its own dtype only."""

    def forward(self, states: Tensor, targets: Mapping[str, Tensor] | None = None) -> HeadOutput:
        boxes = self.boxes(states)
        losses = {} if targets is None else {"box": self.loss(boxes, targets["box"])}
        return HeadOutput(losses, self.prediction(boxes))


class BuiltOnCpu(Box):
    """Makes a parameter on the CPU, whatever device it is built for."""

    def __init__(self, config: BoxConfig, llm_width: int) -> None:
        super().__init__(config, llm_width)
        self.layers[2].bias = nn.Parameter(torch.zeros(4, device="cpu"))


class DrawsSecretly(Box):
    """A number that it draws is in no file."""

    def __init__(self, config: BoxConfig, llm_width: int) -> None:
        super().__init__(config, llm_width)
        self.factor = 1.0 if self.layers[0].weight.is_meta else 0.5 + float(torch.rand(()))

    def boxes(self, states: Tensor) -> Tensor:
        return super().boxes(states) * self.factor


class IsAWord(Box):
    """Its token is a word that answers contain."""

    token = "box"


class NormalisesBoxes(Box):
    """In training, a box depends on the others."""

    def __init__(self, config: BoxConfig, llm_width: int) -> None:
        super().__init__(config, llm_width)
        self.layers[1] = nn.BatchNorm1d(config.hidden)

    def loss(self, boxes: Tensor, wanted: Tensor) -> Tensor:
        return (boxes - wanted).square().sum()


class BoxReader:
    """Reads four numbers out of an .npy file."""

    def __call__(self, target: Target) -> dict[str, Tensor]:
        box = torch.tensor(read_array(target.media(), check=self.check)).float()
        if not box.isfinite().all():
            raise DataError(f"{target}: is not finite.")
        return {"box": box}

    def check(self, shape: tuple[int, ...]) -> None:
        if shape != (4,):
            raise MediaError(f"is {list(shape)}; a box has 4 numbers")

    def fingerprint(self) -> str:
        return "boxes"


class InFiles(Box):
    """Without a fault: its targets are files."""

    def processor(self) -> TargetProcessor:
        return BoxReader()

    @classmethod
    def example(cls, folder: Path) -> HeadExample:
        for number in range(3):
            np.save(folder / f"{number}.npy", np.float32([0.1, 0.2, 0.3, 0.1 * number]))
        return HeadExample([f"{number}.npy" for number in range(3)])


class TakesNaN(BoxReader):
    def __call__(self, target: Target) -> dict[str, Tensor]:
        return {"box": torch.tensor(read_array(target.media(), check=self.check)).float()}


class TrustsNumbersOfFiles(InFiles):
    """NaN in a file becomes a target."""

    def processor(self) -> TargetProcessor:
        return TakesNaN()


class TakesAnyShape(BoxReader):
    def check(self, shape: tuple[int, ...]) -> None:
        del shape


class TrustsShapesOfFiles(InFiles):
    """Whatever a file's shape is, it becomes a target."""

    def processor(self) -> TargetProcessor:
        return TakesAnyShape()
