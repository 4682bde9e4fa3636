"""The contract of encoders: rules for building, weights, precision and devices.

Shapes: M media, S tokens a medium, D = `width`.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from omnivit.contracts.features import Features
from omnivit.seeds import seeded
from omnivit.testing.casts import Casts, names_half
from omnivit.testing.encoder_processor import steady_items
from omnivit.testing.encoder_tokens import TokenRules
from omnivit.testing.homeless import Homes
from omnivit.testing.parts import CLOSE, ROUGH, check_gradients, check_meta, check_same_weights, save_and_load
from omnivit.testing.plugin import fresh
from omnivit.testing.rules import Broken, NotApplicable, rule
from omnivit.testing.trial import SEED, Trial, built, difference, encoded, item_difference, stacked


class WeightRules(TokenRules):
    """Rules for the encoder as a module."""

    @rule
    def test_meta(self, tmp_path: Path) -> None:
        """Under `torch.device("meta")` it is built without memory, and its processor works: `check` needs both."""
        trial = self.trial(tmp_path)
        check_meta(lambda: trial.cls(trial.config))
        with torch.device("meta"):
            sketch = trial.cls(trial.config)
        if sketch.width != trial.encoder.width:
            raise Broken(f"`width` is {sketch.width} then, and {trial.encoder.width} with weights.")
        media = trial.media[0]
        (item,) = steady_items(trial.processor, [media])
        where = item_difference(sketch.processor()(media), item)
        if where:
            raise Broken(f"{media}: {where}, by the processor of one built so.", "Keep no meta tensors in it.")

    @rule
    def test_initialisation(self, tmp_path: Path) -> None:
        """Built twice from one seed, it has the same state: parameters, and buffers that are stored."""
        trial = self.trial(tmp_path)
        check_same_weights(trial.encoder, built(trial.cls, trial.config))

    @rule(needs=("shapes",))
    def test_gradient(self, tmp_path: Path) -> None:
        """Every parameter that trains gets a gradient, or DDP waits for it: remove or freeze unused parameters."""
        trial = self.trial(tmp_path)
        if not any(parameter.requires_grad for parameter in trial.encoder.parameters()):
            raise NotApplicable("it has no parameters that train.")
        for items in map(trial.items, trial.slots):
            _loss(trial.encoder(stacked(items))).backward()  # type: ignore[no-untyped-call]
        check_gradients(trial.encoder)

    @rule(needs=("shapes",))
    def test_frozen(self, tmp_path: Path) -> None:
        """Frozen and in `eval()` it builds no graph, changes no buffer and draws nothing."""
        trial = self.trial(tmp_path)
        encoder = trial.encoder.requires_grad_(False)
        before = {name: value.clone() for name, value in encoder.named_buffers()}
        for items in map(trial.items, trial.slots):
            with seeded(1):
                first = encoder(stacked(items))
            with seeded(2):
                again = encoder(stacked(items))
            if first.values.requires_grad:
                raise Broken(
                    "its features need a gradient.", "Compute with what `parameters()` lists, not with copies of it."
                )
            where = difference("token", again.values, first.values)
            if where:
                raise Broken(
                    f"the second time, {where}.", "Use dropout and random numbers only if `self.training` is True."
                )
        for name, value in encoder.named_buffers():
            where = difference(f"buffer `{name}`", value, before[name])
            if where:
                raise Broken(f"after a forward pass, {where}.", "Update statistics only where `self.training` is True.")

    @rule(needs=("shapes",))
    def test_saved(self, tmp_path: Path) -> None:
        """Built from another seed, it gives the same tokens after loading this state from a safetensors file."""
        trial = self.trial(fresh(tmp_path))
        other = built(trial.cls, trial.config, SEED + 1)
        save_and_load(trial.encoder, other, tmp_path)
        for items in map(trial.items, trial.slots):
            where = difference("token", encoded(other, items).values, encoded(trial.encoder, items).values)
            if where:
                raise Broken(f"after loading, {where}.", "Register what is drawn or learned as parameter or buffer.")

    @rule(needs=("shapes",))
    def test_device(self, tmp_path: Path) -> None:
        """It works on any device: all its tensors move with it, and it creates new ones on the device of the items."""
        trial = self.trial(tmp_path)
        for items in map(trial.items, trial.slots):
            for chosen in (items[:1], items):
                with Homes(trial.encoder), torch.no_grad():
                    trial.encoder(stacked(chosen))
        if torch.cuda.is_available():
            _compare(trial, _rows(trial), "cuda", torch.float32, 10 * CLOSE)

    @rule(needs=("shapes",))
    def test_double(self, tmp_path: Path) -> None:
        """After `.to(torch.float64)` it accepts the same items and gives the same tokens in float64, never rounded."""
        self._check_dtype(tmp_path, torch.float64, CLOSE)

    @rule(needs=("double",))
    def test_bfloat16(self, tmp_path: Path) -> None:
        """After `.to(torch.bfloat16)` it accepts the same items and gives nearly the same tokens, in bfloat16."""
        self._check_dtype(tmp_path, torch.bfloat16, ROUGH)

    def _check_dtype(self, folder: Path, dtype: torch.dtype, tolerance: float) -> None:
        trial = self.trial(folder)
        if not any(True for _ in trial.encoder.parameters()):
            raise NotApplicable("it has no parameters, which determine the dtype.")
        trial.encoder.float()
        _compare(trial, _rows(trial), "cpu", dtype, tolerance)


def _rows(trial: Trial) -> list[Features]:
    return [encoded(trial.encoder, items) for items in map(trial.items, trial.slots)]


@torch.no_grad()
def _compare(trial: Trial, expected: list[Features], device: str, dtype: torch.dtype, tolerance: float) -> None:
    """Raise Broken where the encoder, moved, gives other tokens for the same items."""
    encoder = trial.encoder.to(device, dtype)
    strict = not names_half(trial.config)
    for items, features in zip(map(trial.items, trial.slots), expected, strict=True):
        try:
            with Casts() if strict and dtype == torch.float64 else nullcontext():
                moved = encoder({key: value.to(device) for key, value in stacked(items).items()})
        except NotImplementedError as error:  # by torch, not by the plugin
            raise NotApplicable(f"torch does not compute it in {dtype} on {device}: {error}") from error
        if moved.values.device.type != device or moved.mask.device.type != device:
            raise Broken(f"on {device}, values are on {moved.values.device} and the mask on {moved.mask.device}.")
        if strict and moved.values.dtype != dtype:
            raise Broken(
                f"with weights in {dtype}, values are {moved.values.dtype}.",
                "Return them in the dtype that they are computed in; adapters convert.",
            )
        where = difference("token", moved.values, features.values, tolerance)
        where = where or difference("mask", moved.mask, features.mask)
        if where:
            raise Broken(
                f"on {device} with {dtype}, {where}, more than {tolerance:g} of the largest.",
                "Compute what needs precision (angles, positions, long sums) in float32, and convert the result.",
            )


def _loss(features: Features) -> Tensor:
    """A number that depends on every real token, by weights that no symmetry of the tokens undoes."""
    tokens = features.values[features.mask]
    with seeded(SEED):
        return (tokens * torch.randn(tokens.shape)).sum()
