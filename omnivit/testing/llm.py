"""The contract of LLMs, rule by rule.

    class TestTiny(LLMContract):
        llm = TinyLLM

An LLM is tried on prompts of its own tokenizer, in which some embeddings are replaced, as by media.

Shapes: B samples, T tokens, D = `width`, N kept tokens, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from omnivit.contracts.batch import IGNORE
from omnivit.contracts.generate import generate_anew
from omnivit.contracts.llm import LanguageModel
from omnivit.contracts.sample import Message, Text
from omnivit.data.chat import chat_of
from omnivit.errors import RecipeError
from omnivit.seeds import seeded
from omnivit.testing.generation import AT_LENGTH, GREEDILY, check_windows, word_of
from omnivit.testing.homeless import Homes
from omnivit.testing.llm_trial import NEW, LLMTrial, Prompts, check_new_token
from omnivit.testing.parts import CLOSE, ROUGH, check_gradients, check_meta, check_same_weights, save_and_load
from omnivit.testing.plugin import ConfiguredContract, config_of, example_of, fresh
from omnivit.testing.rules import Broken, NotApplicable, rule
from omnivit.testing.trial import difference


class LLMContract(ConfiguredContract):
    """The rules for every LLM."""

    kind = "llm"
    llm: ClassVar[type[LanguageModel]]
    """The LLM that is tried."""

    @rule
    def test_embedding(self, tmp_path: Path) -> None:
        """`embed` turns ids [B, T] into floating embeddings [B, T, width]; `embedding()` is the table [V, width]."""
        trial = self.trial(tmp_path)
        table = trial.llm.embedding()
        ids = torch.arange(min(6, len(table))).reshape(2, -1)
        for name, embeds, shape in (
            ("`embedding()`", table, [len(table), trial.llm.width]),
            (f"`embed` of ids {list(ids.shape)}", trial.llm.embed(ids), [*ids.shape, trial.llm.width]),
        ):
            if list(embeds.shape) != shape or not embeds.is_floating_point():
                raise Broken(
                    f"{name} is {list(embeds.shape)} of {embeds.dtype}; {shape} of floating point is expected."
                )

    @rule(needs=("embedding",))
    def test_tokenizer(self, tmp_path: Path) -> None:
        """The tokenizer returns ids that have an embedding, and decodes them to the same text."""
        trial = self.trial(tmp_path)
        tokenizer, rows = trial.llm.tokenizer(), len(trial.llm.embedding())
        for text in trial.texts:
            ids = trial.ids(text)
            if not ids or max(ids) >= rows:
                raise Broken(f"{text!r} becomes the ids {ids}; the table of embeddings has {rows} rows.")
            again = str(tokenizer.decode(ids))
            if again.split() != text.split():
                raise Broken(
                    f"{text!r} becomes {ids}, which is decoded to {again!r}.",
                    "Use a tokenizer that preserves the text.",
                )

    @rule(needs=("tokenizer",))
    def test_chat(self, tmp_path: Path) -> None:
        """Of the tokens of a conversation, only those of the answer and of what ends its turn are learnt."""
        trial = self.trial(tmp_path)
        question, answer = trial.texts[:2]
        chat = chat_of(trial.llm)
        found = chat.encode((Message("user", (Text(question),)), Message("assistant", (Text(answer),))), ())
        learnt = chat.decode(found.labels[found.labels != IGNORE].tolist())
        if answer.strip() not in learnt or question.strip() in learnt:
            raise Broken(
                f"of the answer {answer!r} to {question!r}, the learnt text is {learnt!r}.",
                "Return `Chat(self.tokenizer(), template)`; omnivit.data.chat describes templates.",
            )

    @rule(needs=("tokenizer",))
    def test_deterministic(self, tmp_path: Path) -> None:
        """In `eval()` the same prompts give bit-equal logits, and the same seed gives the same weights."""
        trial = self.trial(tmp_path)
        check_same_weights(trial.llm, self.trial(tmp_path).llm)
        prompts = trial.prompts()
        with seeded(1):
            first = trial.run(prompts, prompts.mask)
        with seeded(2):
            again = trial.run(prompts, prompts.mask)
        if where := difference("row", again, first):
            raise Broken(f"called twice: {where}.", "Draw random numbers only if `self.training` is True.")

    @rule(needs=("deterministic",))
    def test_logits(self, tmp_path: Path) -> None:
        """`forward` returns finite logits [N, V], one row for each kept token, sample by sample, for any `keep`."""
        trial = self.trial(tmp_path)
        prompts = trial.prompts()
        rows = len(trial.llm.embedding())
        every = trial.run(prompts, prompts.mask)
        if list(every.shape) != [int(prompts.mask.sum()), rows] or not bool(every.isfinite().all()):
            raise Broken(
                f"for {int(prompts.mask.sum())} kept tokens, logits are {list(every.shape)}; "
                f"[{int(prompts.mask.sum())}, {rows}] of finite numbers is expected."
            )
        place = prompts.mask.cumsum(dim=1) + torch.arange(len(prompts.mask))[:, None]
        masks = (prompts.mask & (place % 3 == 0), prompts.mask & False)
        indexed = tuple(keep.flatten().nonzero()[:, 0] for keep in masks if trial.llm.keeps_by_index)
        for keep, mask in zip((*masks, *indexed), masks * 2, strict=False):
            where = difference("row", trial.run(prompts, keep), every[mask[prompts.mask]], CLOSE)
            if where:
                raise Broken(
                    f"with {int(mask.sum())} of {len(every)} tokens kept, {where}, compared with keeping all.",
                    "Compute all states, and take `states[keep]` before the output head; for the indices that "
                    "`keeps_by_index` allows, `states.flatten(0, 1)[keep]`.",
                )

    @rule(needs=("logits",))
    def test_states(self, tmp_path: Path) -> None:
        """With `states=True` the output also contains the states [B, T, width] of all tokens, which heads read."""
        trial = self.trial(tmp_path)
        prompts = trial.prompts()
        found = trial.llm(*prompts, prompts.mask, states=True).states
        wanted = [*prompts.mask.shape, trial.llm.width]
        if not isinstance(found, Tensor) or list(found.shape) != wanted:
            shape = list(found.shape) if isinstance(found, Tensor) else found
            raise Broken(f"`states` is {shape}; {wanted} is expected.", "Return `LMOutput(logits, states)`.")

    @rule(needs=("logits",))
    def test_padding(self, tmp_path: Path) -> None:
        """A sample gives the same alone and next to longer ones, padded on the left or right with any numbers."""
        trial = self.trial(tmp_path)
        for number, length in enumerate(trial.lengths):
            alone = trial.run(one := trial.prompts([number]), one.mask)
            for left in (False, True):
                together = trial.prompts(left=left)
                keep = together.mask & (torch.arange(len(together.mask)) == number)[:, None]
                where = difference("row", trial.run(together, keep), alone, CLOSE)
                if where:
                    side = "left" if left else "right"
                    raise Broken(
                        f"of {length} tokens, among {trial.lengths} and padded on the {side}, {where}, "
                        "compared with the result alone.",
                        "Leave out tokens where `mask` is False; use `positions`, not the column.",
                    )

    @rule(needs=("logits",))
    def test_causal(self, tmp_path: Path) -> None:
        """No token sees a later one: its logits do not depend on what follows it."""
        trial = self.trial(tmp_path)
        prompts = trial.prompts([trial.lengths.index(max(trial.lengths))])
        half = prompts.mask.shape[1] // 2
        other = prompts.embeds.clone()
        other[:, half:] = other[:, half:].flip(1) * 2 + 1
        keep = torch.arange(prompts.mask.shape[1])[None] < half
        changed = trial.run(prompts._replace(embeds=other), keep)
        if where := difference("row", changed, trial.run(prompts, keep), CLOSE):
            raise Broken(
                f"with other tokens from position {half} on, {where}.",
                "Let each token attend only to itself and earlier ones.",
            )

    @rule(needs=("logits",))
    def test_generation(self, tmp_path: Path) -> None:
        """`generate` continues left-padded prompts like full forward passes do, and ends at the given end tokens.

        Where adapters may change its layers, these are shown the window of the batch that belongs to their tokens.
        """
        trial = self.trial(tmp_path)
        if type(trial.llm).generate is LanguageModel.generate:
            raise NotApplicable("it does not override `generate`: every step is a full forward pass.")
        prompts = trial.prompts(left=True)
        wanted = generate_anew(trial.llm, *prompts, **GREEDILY)
        _check_same_ids(trial.llm.generate(*prompts, **GREEDILY), wanted, "")
        end = {**GREEDILY, "eos_token_id": [int(wanted[0, 1])]}
        ended = generate_anew(trial.llm, *prompts, **end)
        _check_same_ids(trial.llm.generate(*prompts, **end), ended, f"with the end {int(wanted[0, 1])}, ")
        if type(trial.llm).patching is not LanguageModel.patching:
            check_windows(self.trial(tmp_path).llm, places=0)

    @rule(needs=("generation",))
    def test_stops(self, tmp_path: Path) -> None:
        """`generate` ends each answer of a batch where that answer contains a text of the option `stop`."""
        trial = self.trial(tmp_path)
        if type(trial.llm).generate is LanguageModel.generate:
            raise NotApplicable("it does not override `generate`: every step is a full forward pass.")
        prompts = trial.prompts(left=True)
        stop = word_of(trial.llm.tokenizer(), generate_anew(trial.llm, *prompts, **AT_LENGTH))
        expected = generate_anew(trial.llm, *prompts, **AT_LENGTH, stop=[stop])
        ids = trial.llm.generate(*prompts, **AT_LENGTH, stop=[stop])
        _check_same_ids(ids, expected, f"with `stop` {[stop]}, ")

    @rule(needs=("generation",))
    def test_streamer(self, tmp_path: Path) -> None:
        """`generate` passes every new id to the `streamer` at once: `omnivit chat` prints the answer as it grows."""
        trial = self.trial(tmp_path)
        prompts, heard = trial.prompts([0], left=True), _Heard()
        with torch.no_grad():
            found = trial.llm.generate(*prompts, **GREEDILY, streamer=heard)
        if heard.ids != found[0].tolist() or not heard.ended:
            raise Broken(
                f"it returns the ids {found[0].tolist()}, but the streamer received {heard.ids}"
                f"{'' if heard.ended else ', and no end'}.",
                "Call `streamer.put(ids)` for each step, and `streamer.end()`.",
            )

    @rule(needs=("logits",))
    def test_gradients(self, tmp_path: Path) -> None:
        """Every parameter and every input embedding gets a finite gradient: encoders and adapters learn through it."""
        trial = self.trial(tmp_path)
        prompts = trial.prompts()
        embeds = (prompts.embeds + 0).requires_grad_()  # not detached: the table of embeddings gets its gradient too
        embeds.retain_grad()
        _backward(trial.llm.train(), prompts._replace(embeds=embeds))
        gradient = torch.zeros_like(embeds) if embeds.grad is None else embeds.grad
        for number, length in enumerate(trial.lengths):
            found = gradient[number, prompts.mask[number]]
            if not bool(found.isfinite().all()) or bool((found == 0).all(dim=1).any()):
                raise Broken(
                    f"one of the {length} embeddings of a sample gets no gradient, or one that is not finite or zero.",
                    "Remove `detach` and `no_grad`.",
                )
        check_gradients(trial.llm)

    @rule(needs=("gradients",))
    def test_new_tokens(self, tmp_path: Path) -> None:
        """`add_tokens` turns a text into one token; only its rows (`tokens.*`) train; other logits do not change."""
        trial = self.trial(tmp_path)
        prompts = trial.prompts()
        before = trial.run(prompts, prompts.mask)
        try:
            trial.llm.add_tokens([NEW])
        except RecipeError as error:
            raise NotApplicable(f"it does not support new tokens: {error}") from error
        if len(ids := trial.ids(NEW)) != 1:
            raise Broken(f"{NEW!r} becomes the ids {ids}.", "Keep one tokenizer, and add the text to it.")
        check_new_token(trial, prompts, before, ids[0])

    @rule(needs=("gradients",))
    def test_frozen(self, tmp_path: Path) -> None:
        """When frozen and in `eval()`, it changes no tensor, and gradients still reach the embeddings."""
        trial = self.trial(tmp_path)
        llm, prompts = trial.llm.requires_grad_(False), Prompts(*(tensor.detach() for tensor in trial.prompts()))
        before = {name: value.clone() for name, value in llm.state_dict().items()}
        if llm(*prompts, prompts.mask).logits.requires_grad:
            raise Broken("all its parameters are frozen, but its logits require a gradient.", "Register parameters.")
        embeds = prompts.embeds.clone().requires_grad_()
        if not llm(*prompts._replace(embeds=embeds), prompts.mask).logits.requires_grad:
            raise Broken("while it is frozen, no gradient goes through it to the embeddings.", "Remove `no_grad`.")
        for name, value in llm.state_dict().items():
            if where := difference(name, value, before[name]):
                raise Broken(f"after a forward pass: {where}.", "Change it only if `self.training` is True.")

    @rule(needs=("logits",))
    def test_saved(self, tmp_path: Path) -> None:
        """Built from another seed, it gives the same results after loading this state from a safetensors file."""
        trial, other = self.trial(tmp_path), self.trial(tmp_path, seed=1)
        save_and_load(trial.llm, other.llm, tmp_path)
        prompts = trial.prompts()
        if where := difference("row", other.run(prompts, prompts.mask), trial.run(prompts, prompts.mask)):
            raise Broken(
                f"in a second one that loaded the state: {where}.",
                "Register everything that it learns as a parameter.",
            )

    @rule
    def test_meta(self, tmp_path: Path) -> None:
        """Under `torch.device("meta")` it is built without memory and without reading weights, of the same width."""
        trial = self.trial(tmp_path)
        config = config_of(self.plugin(), example_of(self.plugin(), fresh(tmp_path)).config)
        check_meta(lambda: self.plugin()(config))
        with torch.device("meta"):
            sketch = self.plugin()(config)
        if sketch.width != trial.llm.width:
            raise Broken(f"`width` is {sketch.width} then, and {trial.llm.width} with weights.")

    @rule(needs=("logits",))
    def test_device(self, tmp_path: Path) -> None:
        """It works on any device: all its tensors move with it, and it creates new ones on the device of its inputs."""
        trial = self.trial(tmp_path)
        prompts = trial.prompts(left=True)
        with Homes(trial.llm), torch.no_grad():
            wanted = trial.llm(*prompts, prompts.mask).logits
        if torch.cuda.is_available():
            there = Prompts(*(tensor.to("cuda") for tensor in prompts))
            trial.llm.to("cuda")
            if where := difference("row", trial.run(there, there.mask), wanted, 10 * CLOSE):
                raise Broken(f"on a GPU, {where}.")

    @rule(needs=("logits",))
    def test_bfloat16(self, tmp_path: Path) -> None:
        """After `.to(torch.bfloat16)`, embeddings in bfloat16 give nearly the logits of float32."""
        trial = self.trial(tmp_path)
        prompts = trial.prompts()
        wanted = trial.run(prompts, prompts.mask)
        trial.llm.to(torch.bfloat16)
        half = prompts._replace(embeds=prompts.embeds.bfloat16())
        if where := difference("row", trial.run(half, half.mask), wanted, ROUGH):
            raise Broken(
                f"in bfloat16, {where}, which is more than rounding.", "Do not create tensors with a fixed dtype."
            )

    def trial(self, folder: Path, seed: int = 0) -> LLMTrial:
        """The example, built."""
        return LLMTrial.start(self.plugin(), folder, seed)

    def prepare(self, folder: Path) -> None:
        """Build the LLM."""
        self.trial(folder)


class _Heard:
    """Listens to `generate`."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.ended = False

    def put(self, ids: Tensor) -> None:
        self.ids += ids.flatten().tolist()

    def end(self) -> None:
        self.ended = True


def _backward(llm: LanguageModel, prompts: Prompts) -> None:
    with seeded(0):
        logits = llm(*prompts, prompts.mask).logits
        (logits * torch.randn(logits.shape)).sum().backward()


def _check_same_ids(ids: Tensor, expected: Tensor, when: str) -> None:
    for number, (one, other) in enumerate(zip(ids.tolist(), expected.tolist(), strict=True)):
        if one != other:
            raise Broken(
                f"{when}sample {number} continues with {one}; a full forward pass gives {other}.",
                "Continue the positions after the prompt's last one, and exclude padding from the cache.",
            )
