"""Rules for what an adapter makes of an encoder's tokens.

Shapes: M media, S tokens from the encoder, L tokens from the adapter, k grid coordinates, D' width of the tokens.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from omnivit.contracts.adapter import Adapter
from omnivit.contracts.features import Features, Layout, places_of
from omnivit.errors import RecipeError
from omnivit.seeds import seeded
from omnivit.testing.adapter_trial import (
    PROBES,
    Trial,
    alone,
    build,
    layout_text,
    moved,
    real,
    spoiled,
    spread,
)
from omnivit.testing.homeless import Homes
from omnivit.testing.parts import CLOSE, ROUGH, check_meta, check_pickles, check_same_weights
from omnivit.testing.plugin import ConfiguredContract, example_of, fresh
from omnivit.testing.rules import Broken, NotApplicable, rule
from omnivit.testing.trial import difference

COUNT = "Use one formula in `length` and `forward`: tokens are reserved in the sequence before the model runs."
GRID = "Return the places of the tokens that come out, as `torch.cartesian_prod` does, or no grid in `length`."
MASKED = "Use only tokens where `features.mask` is True, as by `features.values.masked_fill(~mask[..., None], 0.0)`."


class TokenRules(ConfiguredContract):
    """Rules for tokens in and tokens out."""

    kind = "adapter"
    adapter: ClassVar[type[Adapter]]

    @rule
    def test_tokens(self, tmp_path: Path) -> None:
        """For every layout that it accepts, it returns as many tokens as the length rule, of `width` numbers each."""
        trial = self.trial(tmp_path)
        for layout in trial.layouts:
            count = trial.adapter.length(layout).tokens
            features = trial.run(trial.features([layout]))
            _check_form(features, 1, trial.adapter.width, layout_text(layout))
            if int(features.lengths()) != count:
                raise Broken(
                    f"for {layout_text(layout)}, `length` returns {count}, forward gives {int(features.lengths())}.",
                    COUNT,
                )

    @rule(needs=("tokens",))
    def test_tokens_of_batches(self, tmp_path: Path) -> None:
        """In a padded batch, each medium gives as many tokens as the length rule returns."""
        trial = self.trial(tmp_path)
        for media in _batches(trial):
            found = trial.run(trial.features(media, extra=2))
            _check_form(found, len(media), trial.adapter.width, _together(media))
            for layout, tokens in zip(media, found.lengths().tolist(), strict=True):
                said = trial.adapter.length(layout).tokens
                if tokens != said:
                    raise Broken(
                        f"{_together(media)}: the one of {layout_text(layout)} gives {tokens}, not {said}.", COUNT
                    )

    @rule(needs=("tokens",))
    def test_grid(self, tmp_path: Path) -> None:
        """If the length rule returns a grid, `Features.grid` contains the place of every token in it, in order."""
        trial = self.trial(tmp_path)
        said = [(layout, trial.adapter.length(layout)) for layout in trial.layouts]
        if all(out.grid is None for _, out in said):
            raise NotApplicable("its tokens have no grid")
        for layout, out in said:
            if out.grid is None:
                continue
            grid = alone(trial.run(trial.features([layout])), 0).grid
            if grid is None:
                raise Broken(
                    f"for {layout_text(layout)}, `length` returns {layout_text(out)} and `Features.grid` is None.", GRID
                )
            places = grid[0][(grid[0] >= 0).all(dim=1)]
            wanted = places_of(Layout(math.prod(out.grid), out.grid))
            if where := difference("place", places, wanted.to(places.dtype)):
                raise Broken(
                    f"for {layout_text(layout)}, `length` returns {layout_text(out)}, and in `Features.grid` {where}.",
                    GRID,
                )

    @rule
    def test_refuses(self, tmp_path: Path) -> None:
        """The length rule returns a layout for every layout, or raises a RecipeError that names what it needs."""
        trial = self.trial(tmp_path)
        for layout in dict.fromkeys([*sorted(PROBES, key=lambda one: one.tokens), *trial.layouts]):
            try:
                layout_out = trial.adapter.length(layout)
            except RecipeError as error:
                if len(str(error)) < 20:
                    raise Broken(
                        f"for {layout_text(layout)} its message is only {str(error)!r}.", "Name what it needs."
                    ) from error
                continue
            except Exception as error:
                raise Broken(
                    f"for {layout_text(layout)} it raises {type(error).__name__}: {error}",
                    "Raise `omnivit.errors.RecipeError` for what it cannot accept, and name what it needs.",
                ) from error
            _check_layout(layout_out, layout)

    @rule
    def test_length_in_workers(self, tmp_path: Path) -> None:
        """The length rule pickles, contains no weights, and returns the same in a loader worker (`spawn`)."""
        trial = self.trial(tmp_path)
        said = [trial.adapter.length(layout) for layout in trial.layouts]
        found = check_pickles(trial.adapter.length, "`length`", trial.layouts)
        for layout, here, there in zip(trial.layouts, said, found, strict=True):
            if here != there:
                raise Broken(
                    f"for {layout_text(layout)}, it is {layout_text(here)} here and {layout_text(there)} in a worker."
                )

    @rule(needs=("tokens_of_batches",))
    def test_padding(self, tmp_path: Path) -> None:
        """Padding changes nothing: results and gradients do not depend on the values where the mask is False."""
        trial = self.trial(tmp_path)
        for media in _batches(trial):
            clean = trial.features(media, extra=2)
            before, after = (_with_gradients(trial, features) for features in (clean, spoiled(clean)))
            for name, wanted in before.items():
                if where := difference(name, after[name], wanted, CLOSE):
                    raise Broken(f"{_together(media)}, with other numbers in the padding: {where}.", MASKED)

    @rule(needs=("tokens_of_batches",))
    def test_padding_anywhere(self, tmp_path: Path) -> None:
        """Padding may be before, between and after the tokens of a medium: the result is the same."""
        trial = self.trial(tmp_path)
        for layout in trial.layouts:
            close = trial.features([layout])
            if where := _apart(trial.run(spread(close)), trial.run(close), CLOSE):
                raise Broken(f"{layout_text(layout)}, with padding before, between and after: {where}.", MASKED)

    @rule(needs=("tokens_of_batches",))
    def test_alone_and_together(self, tmp_path: Path) -> None:
        """A medium gives the same result alone and in a batch with others."""
        trial = self.trial(tmp_path)
        for media in _batches(trial):
            features, instruction = trial.features(media), trial.instruction(len(media))
            together = trial.run(features, instruction)
            for number, layout in enumerate(media):
                asked = None if instruction is None else instruction.of_medium(number)
                if where := _apart(alone(together, number), trial.run(alone(features, number), asked), CLOSE):
                    raise Broken(
                        f"{_together(media)}, the one of {layout_text(layout)} compared with itself alone: {where}.",
                        "Compute no sum, mean or norm over the media of a batch or over padding.",
                    )

    @rule(needs=("tokens",))
    def test_input_kept(self, tmp_path: Path) -> None:
        """`forward` does not change its input: another branch of the input may read the same tokens."""
        trial = self.trial(tmp_path)
        for layout in trial.layouts:
            given = spoiled(trial.features([layout], extra=1))
            kept = copy.deepcopy(given)
            trial.run(given)
            for name in ("values", "mask", "grid"):
                found, wanted = getattr(given, name), getattr(kept, name)
                if wanted is not None and (where := difference(f"`features.{name}`", found, wanted)):
                    raise Broken(
                        f"{layout_text(layout)}: after forward, {where}.",
                        "Compute out of place: `x = x + 1`, not `x += 1`.",
                    )

    @rule(needs=("tokens",))
    def test_memory(self, tmp_path: Path) -> None:
        """It returns what earlier adapters of a chain wrote to `features.memory`, for the layers of the LLM."""
        trial = self.trial(tmp_path)
        for media in trial.groups():
            features = trial.features(media)
            plain = trial.run(features)
            # as wide as what the adapter keeps itself, so that both can be joined
            width = features.values.shape[2] if plain.memory is None else plain.memory.values.shape[2]
            with seeded(0):
                kept = Features(torch.randn(len(media), 2, width), torch.ones(len(media), 2, dtype=torch.bool))
            try:
                memory = trial.run(replace(features, memory=kept)).memory
            except RecipeError as error:
                raise NotApplicable(f"it refuses memory of earlier adapters: {error}") from error
            for number, layout in enumerate(media):
                tokens = None if memory is None else memory.values[number, memory.mask[number]]
                if tokens is None or not _contains(tokens, kept.values[number]):
                    state = "nothing" if tokens is None else f"{len(tokens)} others"
                    raise Broken(
                        f"{layout_text(layout)} with 2 tokens in `features.memory`: {state} in the output.",
                        "Pass it on: `Features(values, mask, grid, features.memory)`.",
                    )

    @rule(needs=("tokens",))
    def test_deterministic(self, tmp_path: Path) -> None:
        """In `eval()` the same tokens give bit-equal results, and the same seed gives the same weights."""
        trial = self.trial(tmp_path)
        check_same_weights(trial.adapter, self.trial(tmp_path).adapter)
        for layout in trial.layouts:
            features = trial.features([layout])
            if where := _apart(trial.run(features), trial.run(features)):
                raise Broken(
                    f"{layout_text(layout)}, twice: {where}.", "Draw random numbers only if `self.training` is True."
                )

    @rule
    def test_meta(self, tmp_path: Path) -> None:
        """Under `torch.device("meta")` it is built without memory and without weights, as `omnivit check` does."""
        plugin = self.plugin()
        example = example_of(plugin, fresh(tmp_path))
        check_meta(lambda: build(plugin, example))

    @rule(needs=("tokens",))
    def test_device(self, tmp_path: Path) -> None:
        """It works on any device: all its tensors move with it, and it creates new ones on the device of the tokens."""
        trial = self.trial(tmp_path)
        for media in trial.groups():
            features, instruction = trial.features(media, extra=2), trial.instruction(len(media))
            with Homes(trial.adapter):
                expected = trial.run(features, instruction)
            if torch.cuda.is_available():
                there = self.trial(tmp_path)
                for part in (there.adapter, there.llm):
                    part.to("cuda")
                if where := _apart(there.run(*moved(features, instruction, "cuda")), expected, 10 * CLOSE):
                    raise Broken(f"{_together(media)}, on a GPU: {where}.")

    @rule(needs=("tokens",))
    def test_bfloat16(self, tmp_path: Path) -> None:
        """Tokens in bfloat16, weights in bfloat16 and autocast give nearly the results of float32."""
        trial = self.trial(tmp_path)
        for case in ("tokens in bfloat16", "tokens and weights in bfloat16", "under autocast to bfloat16"):
            half = self.trial(tmp_path)
            if "weights" in case:
                half.adapter.to(torch.bfloat16)
            for media in trial.groups():
                tokens = trial.features(media, extra=2)
                tokens = tokens.with_values(tokens.values.bfloat16().float())
                wanted = trial.run(tokens)
                with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in case):
                    found = half.run(tokens if "autocast" in case else tokens.with_values(tokens.values.bfloat16()))
                if where := _apart(found, wanted, ROUGH):
                    raise Broken(
                        f"{_together(media)}, {case}: {where}, which is more than rounding.",
                        "Convert tokens to the weights' dtype first: `values.to(next(self.parameters()).dtype)`.",
                    )

    def trial(self, folder: Path, seed: int = 0) -> Trial:
        """The example, installed."""
        return Trial.start(self.plugin(), folder, seed)

    def prepare(self, folder: Path) -> None:
        """Build the adapter and install it into the LLM."""
        _ = self.trial(folder).llm


def _batches(trial: Trial) -> Iterator[tuple[Layout, ...]]:
    """Media that come together, fewest first: each two whose grids have as many axes, then all."""
    for group in trial.groups():
        yield from itertools.combinations(group, 2)
        if len(group) > 2:
            yield group


def _together(media: tuple[Layout, ...]) -> str:
    return f"media of {', '.join(map(layout_text, media))} in a batch"


def _check_form(features: Features, count: int, width: int, what: str) -> None:
    values, mask = features.values, features.mask
    if values.ndim != 3 or values.shape[0] != count or values.shape[2] != width or not values.is_floating_point():
        form = f"`values` is {list(values.shape)} of {values.dtype}; [{count}, tokens, {width}] is expected"
        raise Broken(f"{what}: {form}.", "Set `width` to the width of the tokens that `forward` returns.")
    if mask.shape != values.shape[:2] or mask.dtype != torch.bool:
        raise Broken(
            f"{what}: `mask` is {list(mask.shape)} of {mask.dtype}; {list(values.shape[:2])} of bool is expected."
        )
    if features.grid is not None and features.grid.shape[:2] != mask.shape:
        raise Broken(f"{what}: `grid` is {list(features.grid.shape)}; {[*mask.shape, 'axes']} is expected.")
    if not bool(torch.isfinite(values).all()):
        raise Broken(
            f"{what}: tokens that come out are not finite, or their padding is not finite.", "Fill padding with zeros."
        )


def _check_layout(answer: object, given: Layout) -> None:
    if not isinstance(answer, Layout) or type(answer.tokens) is not int or answer.tokens < 0:
        raise Broken(f"for {layout_text(given)} it gives {answer!r}.", "Return `Layout(tokens, grid)` of integers.")
    grid = answer.grid
    if grid is not None and (not isinstance(grid, tuple) or math.prod(grid) > answer.tokens):
        raise Broken(f"for {layout_text(given)} it gives {answer!r}: the grid has more places than there are tokens.")


def _contains(tokens: Tensor, kept: Tensor) -> bool:
    """Whether all of `kept` [R, D] are among `tokens`, bit by bit."""
    if tokens.shape[1:] != kept.shape[1:]:
        return False
    return bool((tokens[None] == kept[:, None]).all(dim=2).any(dim=1).all())


def _with_gradients(trial: Trial, features: Features) -> dict[str, Tensor]:
    """The output, and the gradients of the parameters and of the real tokens, by name."""
    trial.adapter.zero_grad()
    values = features.values.clone().requires_grad_()
    with seeded(0):
        found = real(trial.run(features.with_values(values)))
    results = dict(zip(("the output", "what is kept in memory"), found, strict=False))
    loss = torch.stack([tokens.float().square().sum() for tokens in found]).sum()
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in trial.adapter.named_parameters():
        if parameter.grad is not None:
            results[f"the gradient of {name}"] = parameter.grad.clone()
    if values.grad is not None:
        results["the gradient of the tokens"] = values.grad[features.mask]
    return results


def _apart(found: Features, wanted: Features, tolerance: float = 0.0) -> str:
    """Describes where real tokens differ; empty if they are equal."""
    names = ("the output", "what is kept in memory")
    pairs = zip(names, real(found), real(wanted), strict=False)
    return next((where for name, one, other in pairs if (where := difference(name, one, other, tolerance))), "")
