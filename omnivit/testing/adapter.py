"""The contract of adapters, rule by rule.

    class TestShrink(AdapterContract):
        adapter = ShrinkAdapter

An adapter is tested on the example that it gives: tokens in several layouts, and a small LLM of four layers that it
is installed into (`adapter_trial`). The rules for tokens are in `adapter_tokens`; all others are here.

Shapes: M media, S tokens from the encoder, Q instruction tokens, B samples, T tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from omnivit.contracts.adapter import Instruction
from omnivit.errors import OmniVitError, RecipeError
from omnivit.seeds import seeded
from omnivit.testing.adapter_tokens import TokenRules
from omnivit.testing.adapter_trial import (
    OTHER,
    SLOT,
    Trial,
    changes_llm,
    instruction_from,
    layout_text,
    plain_parts,
    real,
    stir,
)
from omnivit.testing.generation import Prompted, check_steps
from omnivit.testing.parts import CLOSE, check_gradients, check_pickles, save_and_load
from omnivit.testing.plugin import example_of, fresh
from omnivit.testing.rules import Broken, NotApplicable, rule
from omnivit.testing.trial import difference

SAME = 1e-5
"""Greatest difference of numbers that are computed in the same order."""
REGISTER = "Make what it computes with `nn.Parameter` or buffers of modules, and from `Config` alone."


class AdapterContract(TokenRules):
    """The rules for every adapter."""

    @rule(needs=("tokens_of_batches",))
    def test_gradients(self, tmp_path: Path) -> None:
        """Every parameter, also each one that `install` adds, gets a finite gradient through the LLM in every batch."""
        trial = self.trial(tmp_path)
        trial.adapter.train()
        if not any(parameter.requires_grad for parameter in trial.adapter.parameters()):
            raise NotApplicable("it has no parameters that train")
        for layout in trial.layouts:
            trial.adapter.zero_grad()
            _backward(trial.answer([layout]))
            try:
                check_gradients(trial.adapter)
            except Broken as error:
                raise Broken(f"a batch with one medium, {layout_text(layout)}: {error.evidence}", error.do) from error

    @rule(needs=("tokens_of_batches",))
    def test_gradient_of_tokens(self, tmp_path: Path) -> None:
        """Gradients go through it, and through what it adds to the LLM, to the tokens of every medium."""
        trial = self.trial(tmp_path)
        stir(trial.adapter)
        for media in trial.groups():
            features = trial.features(media, extra=1)
            values = features.values.requires_grad_()
            found = trial.run(features.with_values(values))
            _backward(trial.logits(trial.batch(media), {SLOT: found}))
            gradient = values.grad
            for number, layout in enumerate(media):
                if gradient is None or not gradient[number].any() or not gradient[number].isfinite().all():
                    what = "no gradient" if gradient is None else "a gradient that is zero or not finite"
                    raise Broken(
                        f"the tokens of a medium, {layout_text(layout)}, get {what}.",
                        "Remove `detach`, `no_grad`, rounding and selection, or use differentiable operations.",
                    )

    @rule(needs=("gradient_of_tokens",))
    def test_frozen(self, tmp_path: Path) -> None:
        """When frozen, it changes no tensor and needs no gradient, and gradients still reach its input."""
        trial = self.trial(tmp_path)
        adapter = trial.adapter.requires_grad_(False)
        before = {name: value.clone() for name, value in adapter.state_dict().items()}
        for media in trial.groups():
            features = trial.features(media)
            if any(tokens.requires_grad for tokens in real(trial.run(features))):
                raise Broken("all its parameters are frozen, but its output requires a gradient.", REGISTER)
            values = features.values.requires_grad_()
            features_out = trial.run(features.with_values(values))
            results = real(features_out)
            if any(tokens.numel() for tokens in results) and not any(tokens.requires_grad for tokens in results):
                raise Broken(
                    "while it is frozen, no gradient goes through it to an encoder that trains.", "Remove `no_grad`."
                )
            trial.logits(trial.batch(media), {SLOT: features_out})
        for name, value in adapter.state_dict().items():
            if where := difference(name, value, before[name]):
                raise Broken(f"frozen and in `eval()`, after a forward pass: {where}.", "Change it only in training.")

    @rule(needs=("tokens_of_batches", "deterministic"))
    def test_saved(self, tmp_path: Path) -> None:
        """Saved to a safetensors file and loaded into a second one, its state gives the same results."""
        trial, reloaded = self.trial(tmp_path), self.trial(tmp_path, seed=1)
        stir(trial.adapter)
        save_and_load(trial.adapter, reloaded.adapter, tmp_path)
        for media in trial.groups():
            with torch.no_grad():
                if where := difference("the LLM's answer", reloaded.answer(media), trial.answer(media), SAME):
                    raise Broken(f"in a second one that loaded the state: {where}.", REGISTER)

    @rule(needs=("tokens_of_batches",))
    def test_instruction(self, tmp_path: Path) -> None:
        """An adapter that reads the instruction ignores its padding, and raises a clear error if it is missing."""
        trial = self.trial(tmp_path)
        if trial.adapter.instruction_tokenizer is None:
            raise NotApplicable("it sets no `instruction_tokenizer`")
        for media in trial.groups():
            features, told = trial.features(media), trial.instruction(len(media))
            assert told is not None
            wanted = real(trial.run(features, told))
            for found, other in zip(real(trial.run(features, _padded(told))), wanted, strict=True):
                if where := difference("the output", found, other, CLOSE):
                    raise Broken(
                        f"with more padding after the instruction, of other ids: {where}.",
                        "Read only tokens where `instruction.attention_mask` is True.",
                    )
        features = trial.features(trial.layouts[:1])
        try:
            trial.adapter(features, None)
        except (OmniVitError, ValueError) as error:
            if "instruction" not in str(error):
                raise Broken(
                    f"without an instruction it raises {error!r}.", "Name the missing instruction in the message."
                ) from error
        except Exception as error:
            raise Broken(
                f"without an instruction it raises {error!r}.", "Raise ValueError with this reason."
            ) from error
        else:
            raise Broken(
                "without an instruction it returns a result, as if it had one.", "Raise ValueError with this reason."
            )

    @rule(needs=("tokens_of_batches",))
    def test_instruction_of_others(self, tmp_path: Path) -> None:
        """One that reads no instruction ignores it: another branch of the same input may read it."""
        trial = self.trial(tmp_path)
        if trial.adapter.instruction_tokenizer is not None:
            raise NotApplicable("it reads the instruction")
        for media in trial.groups():
            features, told = trial.features(media), instruction_from("bytes", 16, len(media))
            for found, wanted in zip(real(trial.run(features, told)), real(trial.run(features)), strict=True):
                if where := difference("the output", found, wanted, SAME):
                    raise Broken(f"given an instruction: {where}.", "Set `instruction_tokenizer` to read it.")

    @rule
    def test_positions(self, tmp_path: Path) -> None:
        """A rule of positions pickles and counts each medium's tokens from 0, never faster than one by one."""
        trial = self.trial(tmp_path)
        positions = trial.adapter.positions
        if positions is None:
            raise NotApplicable("its tokens are counted one by one")
        tokens = sorted({trial.adapter.length(layout).tokens for layout in trial.layouts} - {0})
        for count, there in zip(tokens, check_pickles(positions, "`positions`", tokens), strict=True):
            offsets = positions(count)
            if where := difference("position", there, offsets):
                raise Broken(f"for {count} tokens, in a worker: {where}.")
            steps = offsets.diff().tolist()
            if offsets.shape != (count,) or offsets[0] != 0 or offsets.is_floating_point() or not set(steps) <= {0, 1}:
                raise Broken(
                    f"for {count} tokens it gives {offsets.tolist()}.",
                    "Start at 0, and add 0 or 1 from token to token.",
                )

    @rule
    def test_install(self, tmp_path: Path) -> None:
        """`install` changes no key and no number of the LLM and the encoder; what it adds belongs to the adapter."""
        trial = self.trial(tmp_path)
        plain = plain_parts(trial)
        for name, before, after in zip(("encoder", "LLM"), plain, (trial.encoder, trial.llm), strict=True):
            _check_same_state(name, before, after)
            theirs = {id(parameter) for parameter in after.parameters()}
            for key, parameter in trial.adapter.named_parameters():
                if id(parameter) in theirs:
                    raise Broken(
                        f"the {name}'s own parameter is the adapter's {key!r} too.",
                        "Copy it, or keep it outside the module's parameters.",
                    )
        asks = trial.encoded(trial.features(trial.layouts[:1])).values.requires_grad
        if asks and not trial.adapter.in_encoder:
            raise Broken("it added parts to the encoder, but `in_encoder` is False.", "Set `in_encoder` in `install`.")

    @rule(needs=("install",))
    def test_text_alone(self, tmp_path: Path) -> None:
        """A batch without media works, and gives the logits of the plain LLM if the example sets `text_unchanged`."""
        trial = self.trial(tmp_path)
        batch = trial.batch(())
        logits = trial.logits(batch, {})
        if not bool(logits.isfinite().all()):
            raise Broken("for a batch of text alone, the LLM's logits are not finite.")
        if example_of(self.plugin(), fresh(tmp_path)).text_unchanged:
            llm = plain_parts(trial)[1]
            wanted = llm(
                llm.embed(batch.input_ids), batch.attention_mask, batch.position_ids, batch.attention_mask
            ).logits
            if where := difference("its logits", logits, wanted, SAME):
                raise Broken(
                    f"the example sets `text_unchanged`, but for text alone, in the LLM as it is installed, {where}.",
                    "Initialise gates with zero and copies with the originals, and change only the tokens of media.",
                )

    @rule(needs=("tokens_of_batches", "install"))
    def test_generation(self, tmp_path: Path) -> None:
        """What it adds to the LLM works with the cache: each new token gets the logits of a full forward pass."""
        trial = self.trial(tmp_path)
        if not changes_llm(trial.adapter):
            raise NotApplicable("it does not change the LLM")
        stir(trial.adapter)
        for media in trial.groups():
            with torch.no_grad():
                found = {SLOT: trial.run(trial.features(media))}
            for batch in (trial.batch(media, left=True), trial.batch(media, left=True, at_ends=True)):
                embeds, context = trial.embed(batch, found)
                prompts = Prompted(embeds, batch.attention_mask, batch.position_ids, context)
                check_steps(trial.llm, prompts, batch.names, f"with media of {', '.join(map(layout_text, media))}")

    @rule(needs=("tokens_of_batches", "install"))
    def test_packed(self, tmp_path: Path) -> None:
        """With `packs`, samples that follow one another in a row get the logits that each gets in its own row."""
        trial = self.trial(tmp_path)
        if not changes_llm(trial.adapter) or not trial.adapter.packs:
            raise NotApplicable("it does not change the LLM, or does not set `packs`")
        stir(trial.adapter)
        for media in trial.groups():
            with torch.no_grad():
                found = {SLOT: trial.run(trial.features(media))}
                for at_ends in (False, True):
                    apart = trial.logits(trial.batch(media, at_ends=at_ends), found)
                    trial.llm.pack(True)
                    together = trial.logits(trial.batch(media, at_ends=at_ends, packs=True), found)
                    trial.llm.pack(False)
                    if where := difference("its logits", together, apart, CLOSE):
                        raise Broken(
                            f"with media of {', '.join(map(layout_text, media))}, in a packed row, {where}.",
                            "Leave out the media that the slot's context counts as `unseen`. Or set `packs = False`: "
                            "then recipes that pack refuse the adapter.",
                        )

    @rule(needs=("tokens_of_batches",))
    def test_shared(self, tmp_path: Path) -> None:
        """Two inputs may share it, or `install` raises a RecipeError with the reason."""
        try:
            trial = Trial.start(self.plugin(), tmp_path, slots=(SLOT, OTHER))
        except RecipeError as error:
            raise NotApplicable(f"it refuses to be shared: {error}") from error
        for media in trial.groups():
            if not bool(trial.answer(media).isfinite().all()):
                raise Broken("for a batch with media of two inputs that share it, the LLM's logits are not finite.")


def _backward(logits: Tensor) -> None:
    with seeded(0):
        logits.square().mean().backward()  # type: ignore[no-untyped-call]


def _padded(told: Instruction) -> Instruction:
    """The same instructions with three more tokens of padding, and other ids in all padding."""
    ids = nn.functional.pad(told.input_ids.masked_fill(~told.attention_mask, 7), (0, 3), value=9)
    return Instruction(ids, nn.functional.pad(told.attention_mask, (0, 3), value=False))


def _check_same_state(name: str, before: nn.Module, after: nn.Module) -> None:
    state_before, state_after = before.state_dict(), after.state_dict()
    for key in [*state_before, *state_after]:
        if key not in state_after or key not in state_before:
            has = "lost" if key in state_before else "got"
            raise Broken(
                f"the {name} {has} the key {key!r}.",
                "Register parameters in the adapter, and wrap modules with `llm.patching.around`.",
            )
        if where := difference(f"the {name}'s {key}", state_after[key], state_before[key]):
            raise Broken(f"{where} after `install`.", "Copy what is to be changed.")
