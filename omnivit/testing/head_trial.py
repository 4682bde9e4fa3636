"""A head that is built from its example, and good and bad targets for it.

Shapes: N occurrences of the token, D LLM width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from omnivit.contracts.head import Head, HeadOutput
from omnivit.contracts.sample import Media, Target
from omnivit.data.collate import stacked_items
from omnivit.seeds import seeded
from omnivit.testing.bad_media import bad_arrays, bad_media
from omnivit.testing.plugin import config_of, example_of, fresh
from omnivit.testing.rules import Broken

COUNT = 3
"""N of an example."""
NAME = "example"
"""What a recipe may call the head."""


@dataclass
class HeadTrial:
    """A head that is built from its example, in `eval()`, and its targets."""

    head: Head
    states: Tensor
    """[N, D] random numbers."""
    given: list[Target]
    """As samples give them."""
    targets: dict[str, Tensor]
    """[N, ...] as the processor gives them, stacked."""

    @classmethod
    def start(cls, plugin: type[Head], folder: Path, seed: int = 0) -> HeadTrial:
        """Build the example of a plugin. Raises Broken where its targets are not three."""
        root = fresh(folder)
        example = example_of(plugin, root)
        if len(example.targets) != COUNT:
            raise Broken(f"the example has {len(example.targets)} targets.", f"Give {COUNT}.")
        with seeded(seed):
            head = plugin(config_of(plugin, example.config), example.llm_width).eval()
        with seeded(0):
            states = torch.randn(COUNT, example.llm_width)
        given = [Target(NAME, source, str(root)) for source in example.targets]
        processor = head.processor()
        return cls(head, states, given, stacked_items([processor(target) for target in given]))

    def run(self, start: int = 0, stop: int = COUNT) -> HeadOutput:
        """What the head gives for some of the occurrences."""
        return self.of(self.states[start:stop], {name: found[start:stop] for name, found in self.targets.items()})

    def gradient(self) -> Tensor:
        """[N, D] of the states, in `train()`, from a copy of the head."""
        head, states = copy.deepcopy(self.head).train(), self.states.clone().requires_grad_()
        with seeded(0):
            total(head(states, self.targets)).backward()  # type: ignore[no-untyped-call]
        return torch.zeros_like(states) if states.grad is None else states.grad

    def of(self, states: Tensor, targets: Mapping[str, Tensor] | None) -> HeadOutput:
        """What the head gives. Raises Broken where that is no HeadOutput."""
        found = self.head(states, targets)
        if not isinstance(found, HeadOutput):
            raise Broken(f"forward returns {type(found).__name__}.", "Return `HeadOutput({'name': loss}, prediction)`.")
        return found


def total(output: HeadOutput) -> Tensor:
    return torch.stack([loss.float() for loss in output.losses.values()]).sum()


def bad_targets(given: Sequence[Target], folder: Path) -> Iterator[tuple[str, Target]]:
    """Targets that a data file may contain by mistake, and what they are."""
    first = given[0]
    for thing in (None, True, "", "nonsense", [], {}, {"x": 1}, [None], [[]], float("nan"), 10**400, object()):
        yield f"{type(thing).__name__} {str(thing)[:20]!r}", Target(NAME, thing, first.root)
    if isinstance(first.source, list | tuple):
        for what, change in (("one number too few", first.source[1:]), ("one too many", [*first.source, 0.5])):
            yield what, Target(NAME, list(change), first.root)
        yield "NaN among its numbers", Target(NAME, [float("nan"), *first.source[1:]], first.root)
    if isinstance(first.source, str):
        for what, source in bad_arrays([Media(NAME, target.source, target.root) for target in given], fresh(folder)):
            yield what, Target(NAME, source.name, str(source.parent))
        for bad in bad_media([Media(NAME, target.source, target.root) for target in given], fresh(folder)):
            yield bad.what, Target(NAME, bad.media.source, bad.media.root)


def check_item(name: str, item: object) -> None:
    """Raise Broken where a target did not become named, finite tensors."""
    if not isinstance(item, Mapping) or not item or not all(isinstance(value, Tensor) for value in item.values()):
        raise Broken(f"{name} becomes a {type(item).__name__}.", "Return named tensors: `{'box': ...}`.")
    for key, value in item.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise Broken(f"{name} becomes a {key!r} that is not finite.", "Raise a DataError for it.")


def check_usable(trial: HeadTrial, item: Mapping[str, Tensor], what: str) -> None:
    """Raise Broken where a target was accepted that cannot be stacked with good ones, or has no finite loss."""
    good = {name: (value.dtype, value.ndim - 1) for name, value in trial.targets.items()}
    form = {name: (value.dtype, value.ndim) for name, value in item.items()}
    problem = f"becomes {_form(form)}, where good targets are {_form(good)}" if form != good else ""
    if not problem:
        try:
            losses = trial.of(trial.states[:1], stacked_items([item])).losses
            bad = [name for name, loss in losses.items() if not bool(loss.isfinite())]
            problem = f"is accepted, and the loss {bad[0]!r} is not finite" if bad else ""
        except Exception as error:
            problem = f"is accepted, and forward raises {type(error).__name__}: {error}"
    if problem:
        raise Broken(f"{what} {problem}.", "Check its shape and its numbers in the processor, and raise DataError.")


def _form(form: Mapping[str, tuple[torch.dtype, int]]) -> str:
    return ", ".join(f"{name!r} of {dtype} with {axes} axes" for name, (dtype, axes) in form.items())
