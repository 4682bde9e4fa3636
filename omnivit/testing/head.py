"""The contract of heads, rule by rule.

    class TestBox(HeadContract):
        head = BoxHead

A head is tried on the example that it gives: three targets, as samples give them, and states that the rules draw.

Shapes: N occurrences of the token, D LLM width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from omnivit.contracts.head import Head
from omnivit.errors import DataError
from omnivit.seeds import seeded
from omnivit.testing.head_trial import COUNT, HeadTrial, bad_targets, check_item, check_usable, total
from omnivit.testing.homeless import Homes
from omnivit.testing.parts import (
    CLOSE,
    ROUGH,
    check_gradients,
    check_meta,
    check_pickles,
    check_same_weights,
    save_and_load,
)
from omnivit.testing.plugin import ConfiguredContract, config_of, example_of, fresh
from omnivit.testing.rules import Broken, NotApplicable, rule
from omnivit.testing.trial import difference, item_difference


class HeadContract(ConfiguredContract):
    """The rules for every head."""

    kind = "head"
    head: ClassVar[type[Head]]

    @rule
    def test_token(self, tmp_path: Path) -> None:
        """A head names its token: a text in brackets such as `[SEG]`, because no word of an answer looks like it."""
        token = getattr(self.trial(tmp_path).head, "token", None)
        if not isinstance(token, str) or len(token.split()) != 1 or token != token.strip():
            raise Broken(f"`token` is {token!r}.", "Write `token = '[BOX]'` in the class.")
        if len(token) < 3 or token[0].isalnum() or token[-1].isalnum():
            raise Broken(
                f"`token` is {token!r}, which an answer may contain as plain text.",
                f"Write it in brackets: '[{token}]'.",
            )

    @rule
    def test_targets(self, tmp_path: Path) -> None:
        """`processor()` is sent to loader workers without weights, and returns the same finite tensors there."""
        trial = self.trial(tmp_path)
        here = [trial.head.processor()(target) for target in trial.given]
        for target, item in zip(trial.given, here, strict=True):
            check_item(f"the target {target}", item)
        there = check_pickles(trial.head.processor(), "`processor()`", trial.given)
        for target, item, again in zip(trial.given, here, there, strict=True):
            if where := item_difference(again, item):
                raise Broken(f"of the target {target}, in a worker: {where}.", "Draw from `target.seed` alone.")
        if not trial.head.processor().fingerprint() or not isinstance(trial.head.processor().fingerprint(), str):
            raise Broken("`processor().fingerprint()` is not a string.", "Return its settings as a short string.")

    @rule(needs=("targets",))
    def test_bad_targets(self, tmp_path: Path) -> None:
        """What cannot be a target raises a DataError: no other exception, and no NaN in the result."""
        trial = self.trial(tmp_path)
        processor = trial.head.processor()
        for what, target in bad_targets(trial.given, fresh(tmp_path)):
            try:
                item = processor(target)
            except DataError:
                continue
            except Exception as error:
                raise Broken(
                    f"{what} raises {type(error).__name__}: {error}", "Raise `DataError('what is wrong')` from it."
                ) from error
            check_item(f"{what}: the target {target}", item)
            check_usable(trial, item, what)

    @rule
    def test_losses(self, tmp_path: Path) -> None:
        """Losses are finite single numbers with the names that the class gives in `losses`, and train the head."""
        trial = self.trial(tmp_path)
        output, named = trial.run(), getattr(trial.head, "losses", ())
        if not named or set(output.losses) != set(named):
            raise Broken(
                f"it gives the losses {sorted(output.losses)}, and `losses` is {named!r}.",
                "Write `losses = ('box',)` in the class, and return `HeadOutput({'box': loss})`.",
            )
        for name, loss in output.losses.items():
            _check_loss(name, loss)
            if not loss.requires_grad:
                raise Broken(f"the loss {name!r} depends on nothing that trains.", "Remove `detach` and `no_grad`.")

    @rule(needs=("losses",))
    def test_deterministic(self, tmp_path: Path) -> None:
        """In `eval()` the same states give bit-equal losses, and the same seed gives the same weights."""
        trial = self.trial(tmp_path)
        check_same_weights(trial.head, self.trial(tmp_path).head)
        again = trial.run().losses
        for name, loss in trial.run().losses.items():
            if where := difference(f"loss {name!r}", again[name], loss):
                raise Broken(f"called twice: {where}.", "Draw random numbers only if `self.training` is True.")

    @rule(needs=("deterministic",))
    def test_gradients(self, tmp_path: Path) -> None:
        """Every parameter gets a finite gradient from the losses, and so do the LLM's states."""
        trial = self.trial(tmp_path)
        trial.head.train()
        trial.states.requires_grad_()
        with seeded(0):
            total(trial.run()).backward()  # type: ignore[no-untyped-call]
        check_gradients(trial.head)
        gradient = trial.states.grad
        if gradient is None or not gradient.isfinite().all() or not gradient.any():
            what = "no gradient" if gradient is None else "a gradient that is zero or not finite"
            raise Broken(f"the states {list(trial.states.shape)} get {what}.", "Remove `detach` and rounding.")

    @rule(needs=("deterministic",))
    def test_sums(self, tmp_path: Path) -> None:
        """A loss is a sum over the occurrences: the loss of a batch is the sum of the losses of its parts."""
        trial = self.trial(tmp_path)
        parts = [trial.run(number, number + 1).losses for number in range(COUNT)]
        for name, whole in trial.run().losses.items():
            added = torch.stack([part[name] for part in parts]).sum()
            if where := difference(f"loss {name!r}", whole, added, CLOSE):
                raise Broken(
                    f"{where}, which is what its {COUNT} occurrences give one by one.",
                    "Sum over the first dimension: the step divides by the count over all micro-batches and ranks.",
                )

    @rule(needs=("sums",))
    def test_training(self, tmp_path: Path) -> None:
        """In `train()` too, an occurrence does not depend on the others: its gradient is the same in any batch."""
        trial = self.trial(tmp_path)
        first = trial.gradient()
        trial.states[1:] = trial.states[1:].flip(-1) * 0.5 + 0.25
        # the same shapes and the same seed: dropout drops the same numbers
        if where := difference("gradient", trial.gradient()[0], first[0], CLOSE):
            raise Broken(
                f"in `train()`, occurrence 0 of {COUNT}, next to other states: {where}.",
                "Normalise over each occurrence alone (LayerNorm), not over the batch (BatchNorm).",
            )

    @rule(needs=("deterministic",))
    def test_untold(self, tmp_path: Path) -> None:
        """Without targets it gives the same prediction and no loss, because an answer comes without targets."""
        trial = self.trial(tmp_path)
        with_targets, untold = trial.run(), trial.of(trial.states, None)
        if untold.losses:
            raise Broken(f"without targets it gives the losses {sorted(untold.losses)}.", "Return `HeadOutput({}, p)`.")
        if with_targets.prediction is None and untold.prediction is None:
            return
        again = _each(untold.prediction, COUNT)
        for name, wanted in _each(with_targets.prediction, COUNT).items():
            for number in range(COUNT):
                if name not in again or (where := difference(name, again[name][number], wanted[number])):
                    why = where if name in again else f"{name} is missing"
                    raise Broken(f"without targets, occurrence {number}: {why}.", "Predict from the states alone.")

    @rule(needs=("untold",))
    def test_alone_and_together(self, tmp_path: Path) -> None:
        """The prediction of an occurrence is the same alone and in a batch with others."""
        trial = self.trial(tmp_path)
        together = _each(trial.run().prediction, COUNT)
        for number in range(COUNT):
            alone = _each(trial.run(number, number + 1).prediction, 1)
            if alone.keys() != together.keys():
                raise Broken(f"for N = 1 it predicts {sorted(alone)}, for N = {COUNT} {sorted(together)}.")
            for name, found in together.items():
                if where := difference(name, found[number], alone[name][0], CLOSE):
                    raise Broken(
                        f"occurrence {number} of {COUNT} compared with itself alone: {where}.",
                        "Compute no mean, norm or softmax over the occurrences.",
                    )

    @rule(needs=("deterministic",))
    def test_input_kept(self, tmp_path: Path) -> None:
        """`forward` does not change states and targets: another head may read them."""
        trial = self.trial(tmp_path)
        before = {"states": trial.states.clone(), **copy.deepcopy(trial.targets)}
        trial.run()
        for name, found in {"states": trial.states, **trial.targets}.items():
            if where := difference(f"`{name}`", found, before[name]):
                raise Broken(f"after forward, {where}.", "Compute out of place: `x = x + 1`, not `x += 1`.")

    @rule(needs=("gradients",))
    def test_frozen(self, tmp_path: Path) -> None:
        """When frozen and in `eval()`, it changes no tensor, and gradients still reach the states."""
        trial = self.trial(tmp_path)
        trial.head.requires_grad_(False)
        before = {name: value.clone() for name, value in trial.head.state_dict().items()}
        if total(trial.run()).requires_grad:
            raise Broken("all its parameters are frozen, but a loss requires a gradient.", "Register parameters.")
        trial.states.requires_grad_()
        if not total(trial.run()).requires_grad:
            raise Broken("while it is frozen, no gradient goes through it to the states.", "Remove `no_grad`.")
        for name, value in trial.head.state_dict().items():
            if where := difference(name, value, before[name]):
                raise Broken(f"after a forward pass: {where}.", "Change it only if `self.training` is True.")

    @rule(needs=("deterministic",))
    def test_saved(self, tmp_path: Path) -> None:
        """Built from another seed, it gives the same results after loading this state from a safetensors file."""
        trial, other = self.trial(tmp_path), self.trial(tmp_path, seed=1)
        save_and_load(trial.head, other.head, tmp_path)
        loaded = other.run().losses
        for name, loss in trial.run().losses.items():
            if where := difference(f"loss {name!r}", loaded[name], loss):
                raise Broken(
                    f"in a second one that loaded the state: {where}.",
                    "Register everything that it learns as a parameter.",
                )

    @rule
    def test_meta(self, tmp_path: Path) -> None:
        """Under `torch.device("meta")` it is built without memory and without reading weights."""
        plugin = self.plugin()
        example = example_of(plugin, fresh(tmp_path))
        check_meta(lambda: plugin(config_of(plugin, example.config), example.llm_width))

    @rule(needs=("deterministic",))
    def test_device(self, tmp_path: Path) -> None:
        """It works on any device: all its tensors move with it, and it creates new ones on the device of the states."""
        trial = self.trial(tmp_path)
        with Homes(trial.head):
            wanted = trial.run().losses
        if torch.cuda.is_available():
            trial.head.to("cuda")
            targets = {name: value.to("cuda") for name, value in trial.targets.items()}
            _check_same(trial.of(trial.states.to("cuda"), targets).losses, wanted, 10 * CLOSE, "on a GPU")

    @rule(needs=("deterministic",))
    def test_bfloat16(self, tmp_path: Path) -> None:
        """States in bfloat16, with weights in float32 or bfloat16, give nearly the losses of float32."""
        trial = self.trial(tmp_path)
        half = trial.states.bfloat16()
        wanted = trial.of(half.float(), trial.targets).losses
        for case in ("states in bfloat16", "states and weights in bfloat16"):
            if "weights" in case:
                trial.head.to(torch.bfloat16)
            _check_same(trial.of(half, trial.targets).losses, wanted, ROUGH, case)

    def trial(self, folder: Path, seed: int = 0) -> HeadTrial:
        """The example, built."""
        return HeadTrial.start(self.plugin(), folder, seed)

    def prepare(self, folder: Path) -> None:
        """Build the head and read its targets."""
        self.trial(folder)


def _check_loss(name: str, loss: object) -> None:
    if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
        what = f"{list(loss.shape)} of {loss.dtype}" if isinstance(loss, Tensor) else f"of type {type(loss).__name__}"
        raise Broken(f"the loss {name!r} is {what}.", "Return a tensor of no dimension, such as `found.sum()`.")
    if not loss.isfinite():
        raise Broken(f"the loss {name!r} is {loss.item()}.")


def _check_same(losses: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float, when: str) -> None:
    for name, loss in expected.items():
        if where := difference(f"loss {name!r}", losses[name], loss, tolerance):
            raise Broken(
                f"{when}: {where}, which is more than rounding.",
                "Bring states to the weights' dtype first: `states.to(self.layer.weight.dtype)`.",
            )


def _each(prediction: Any, count: int) -> dict[str, Any]:
    """The parts of a prediction by name; each has one entry for an occurrence.

    Raises:
        NotApplicable: there is none.
        Broken: it has another number of entries.
    """
    parts = prediction if isinstance(prediction, Mapping) else {"": prediction}
    entries = {}
    for name, part in parts.items():
        listed = isinstance(part, list | tuple) and all(isinstance(one, Tensor) for one in part)
        if listed or (isinstance(part, Tensor) and part.ndim):
            entries[f"the prediction {name!r}" if name else "the prediction"] = part
    if not entries:
        raise NotApplicable(
            "its prediction is neither a tensor nor a list of tensors, with one entry for each occurrence"
        )
    for name, part in entries.items():
        if len(part) != count:
            raise Broken(f"for N = {count}, {name} has {len(part)} entries.", "Return one for each occurrence.")
    return entries
