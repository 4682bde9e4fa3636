"""A trained model in use: questions in, answers out, and the probability of given answers.

The path from sample to tokens is the one that training takes (`omnivit.data.prepare`); only the limit differs: a prompt
may fill the LLM's context, however short the samples of the training were.

Shapes: B samples of a batch, T tokens, V vocabulary, n supervised tokens of a sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnivit.contracts.batch import Batch
from omnivit.contracts.llm import LanguageModel
from omnivit.contracts.sample import Message, Sample
from omnivit.data.collate import EncodedSample, collate
from omnivit.data.combining import tokens_of_media
from omnivit.data.prepare import Preparer
from omnivit.data.records import messages_from
from omnivit.engine import GREEDY, Engine, Request, Sampling
from omnivit.engine.alone import options_of
from omnivit.errors import CheckpointError, DataError, suggest
from omnivit.model.build import load_model, preparer_of
from omnivit.model.device import device_named
from omnivit.model.omni import OmniModel
from omnivit.model.precision import EmulatedPrecision, asked, emulation
from omnivit.recipe import Recipe
from omnivit.registry.versions import warn_once
from omnivit.run import provenance
from omnivit.run.answering import Answering
from omnivit.run.asked import as_path, asked_of
from omnivit.run.folder import no_checkpoint, open_recipe
from omnivit.run.provenance import PROVENANCE
from omnivit.run.reply import Reply, message_of, read_heads
from omnivit.run.start import started
from omnivit.run.stopping import Answer, cut
from omnivit.seeds import seeded
from omnivit.train.checkpoint import CHECKPOINTS
from omnivit.train.freeze import trained_so_far
from omnivit.train.keep import read_named
from omnivit.train.losses import token_log_probs
from omnivit.train.merging import merging_stages, restore

__all__ = ["Assistant", "Sampling", "load"]
TOO_LONG = "the LLM's context is {} tokens. Use fewer media, a shorter text or history, or fewer new tokens."
WINDOW = 16
"""Batches that are prepared together and sorted by length: little padding, and memory that stays within bounds."""


def load(run: str | Path, device: str | None = None, trust: bool = False, checkpoint: str | None = None) -> Assistant:
    """Open a run folder: its recipe's model with the weights of its newest checkpoint, or of another.

    Args:
        run: the folder that `omnivit train` or `omnivit import-hf` wrote.
        device: where it runs; default: the GPU if there is one.
        trust: run Python code that the run brings or names (see `omnivit.run.trust`), where it was not trained here.
        checkpoint: `last` (default), `best` (see `keep` of recipes), or a name in the run's folder `checkpoints`.

    Raises:
        CheckpointError: the folder holds no run, no checkpoint, or one that does not fit the recipe.
        PluginError: a plugin is missing, or of another major version than the run was made with; says what to install.
        RecipeError: the recipe cannot be built here, brings code that is not trusted, or there is no such device.
    """
    folder = Path(run)
    warn_once()
    return assistant_of(folder, open_recipe(folder, trust), device, checkpoint)


def assistant_of(folder: Path, recipe: Recipe, device: str | None = None, checkpoint: str | None = None) -> Assistant:
    """The model of a recipe with the weights of a run's checkpoint. Raises as `load`, whose arguments these are.

    Args:
        recipe: that of the run, or one with the same parameters (another dtype, say).
    """
    standing = read_named(
        folder / CHECKPOINTS,
        checkpoint,
        recipe.keep,
        lambda opened: (opened.path, opened.state, opened.weights(), opened.merged()),
    )
    if standing is None:
        raise CheckpointError(no_checkpoint(folder))
    path, state, weights, merged = standing
    index = state["stage_index"]
    place = device_named(device)
    record = provenance.read(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    model = load_model(recipe, started(recipe, folder, record))
    if text := emulation(asked(model), place):
        warnings.warn(text, EmulatedPrecision, stacklevel=2)
    trained = trained_so_far(model, recipe, index)
    restore(model, weights, merged, merging_stages(recipe, index), recipe.seed, path, trained)
    return Assistant(model.to(place), preparer_of(model, recipe), recipe)


class Assistant:
    """Answers questions about media. Deterministic unless it samples.

    Args:
        model: built and loaded, wherever it is to run; put into `eval()`.
        preparer: as `omnivit.model.build.preparer_of` makes it.
        recipe: what both were made from.

    Attributes:
        slots: the input slots that questions may have media for.
        engine: answers questions in a thread of its own, which runs while there are any. Assign another one for other
            numbers of requests that run and wait.
    """

    def __init__(self, model: OmniModel, preparer: Preparer, recipe: Recipe) -> None:
        self.model, self.recipe = model.eval(), recipe
        self.preparer = replace(
            preparer, max_length=self.context, truncate=False, reads_targets=False, too_long=TOO_LONG
        )
        self.slots = tuple(preparer.slots)
        self.engine = Engine(self.model, preparer.chat)

    def __repr__(self) -> str:
        llm, inputs = self.recipe.model.llm, ", ".join(self.slots) or "none"
        return f"Assistant({llm.get('path') or llm['name']}, inputs: {inputs}, context: {self.context} tokens)"

    @property
    def context(self) -> int:
        """The most tokens that the LLM can attend to, those of media and of the answer included."""
        llm: LanguageModel = self.model.llm
        return self.recipe.data.max_length if llm.context is None else llm.context

    def ask(
        self,
        question: str,
        *,
        history: Sequence[Message] = (),
        max_new_tokens: int = 256,
        on_text: Callable[[str], None] | None = None,
        sampling: Sampling = GREEDY,
        **media: Any,
    ) -> str:
        """Answer a question.

        Args:
            question: plain text; nothing in it becomes a placeholder or a special token.
            history: earlier turns, with their media.
            max_new_tokens, on_text, sampling: as `reply`.
            **media: by slot, in order: a path, a PIL image, an array, bytes, or a list of them. They stand before the
                question.

        Raises:
            DataError: no such slot, unreadable media, or too long for the LLM's context.
        """
        turns = [*history, self._turn(question, media)]
        return self.reply(turns, max_new_tokens=max_new_tokens, on_text=on_text, sampling=sampling)

    def ask_many(
        self, questions: Sequence[tuple[str, Mapping[str, Any]]], *, max_new_tokens: int = 256, batch_size: int = 8
    ) -> list[str]:
        """Answer several questions, each (text, media by slot, as for `ask`), in batches and in their order."""
        samples = [Sample(f"question {n}", (self._turn(*question),)) for n, question in enumerate(questions)]
        return self.answer(samples, max_new_tokens, batch_size)

    def turn(self, text: str, media: Iterable[tuple[str, Any]] = ()) -> Message:
        """A user's turn: media as (slot, source), then the text.

        Raises:
            DataError: no such slot, or a source that cannot be a medium. It is read later, when it is replied to.
        """
        parts: list[dict[str, Any]] = []
        for slot, source in media:
            if slot not in self.slots:
                raise DataError(f"this model has no input slot {slot!r}; {suggest(slot, self.slots)}")
            parts.append({"type": slot, slot: as_path(source)})
        parts.append({"type": "text", "text": text})
        return messages_from([{"role": "user", "content": parts}], None, "question")[0]

    def reply(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int = 256,
        on_text: Callable[[str], None] | None = None,
        sampling: Sampling = GREEDY,
    ) -> str:
        """The text of `respond`: the assistant's next turn, without white space around it."""
        return self.respond(messages, max_new_tokens=max_new_tokens, on_text=on_text, sampling=sampling).text

    def respond(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int = 256,
        on_text: Callable[[str], None] | None = None,
        sampling: Sampling = GREEDY,
    ) -> Reply:
        """Continue a conversation with the assistant's next turn, and ask the heads whose tokens are in it.

        Args:
            messages: the conversation so far.
            max_new_tokens: the answer is cut there.
            on_text: is given the answer piece by piece while it grows; the pieces joined are the answer.
            sampling: how tokens are chosen; default: greedily.

        Returns:
            The answer and what the heads read off it.

        Raises:
            DataError: unreadable media, or too long for the LLM's context.
        """
        answering = self.start(messages, max_new_tokens=max_new_tokens, sampling=sampling)
        try:
            if on_text is not None:
                for piece in answering:
                    on_text(piece)
            return answering.reply()
        finally:
            answering.cancel()  # where the caller was interrupted; else it is complete

    def start(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int = 256,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
    ) -> Answering:
        """Begin an answer, and return while it grows in the engine's thread; several grow at once.

        Args:
            messages, max_new_tokens, sampling: as for `respond`.
            stop: texts that end the answer, besides those of the template.
            logprobs: the number of the likeliest alternatives to report for each token (`answering.generated`); 0: the
                log-probability of the token alone.

        Raises:
            DataError: unreadable media, or too long for the LLM's context.
            EngineBusy: too many others wait.
        """
        encoded = self._prepare(Sample("question", tuple(messages)), max_new_tokens)
        chat, media = self.preparer.chat, [medium for turn in messages for medium in turn.media()]

        def read(answer: Answer) -> Reply:
            text = answer.text.strip()
            with self.engine.exclusive():
                predictions = read_heads(self.model, encoded, answer.ids, chat)
            reply = Reply(text, message_of(answer, chat), predictions)
            return reply.with_areas(self.preparer.areas_in(text, media))

        request = Request(encoded, max_new_tokens, sampling, tuple(stop), logprobs)
        return Answering(self.engine.submit(request), chat, read)

    def answer(
        self,
        samples: Sequence[Sample],
        max_new_tokens: int,
        batch_size: int,
        answered: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Answer the last question of every sample, greedily, in batches.

        Answers that end a sample are the reference: they are not shown to the model.

        Args:
            samples: each with at least one turn before its answer.
            max_new_tokens: answers are cut there.
            batch_size: samples that are answered together.
            answered: called after each batch with the number of samples that are answered so far.

        Returns:
            One answer a sample, in the order of the samples.

        Raises:
            DataError: a sample cannot be prepared, or is too long; names it.
        """
        answers, done = [""] * len(samples), 0
        for indices, group in self._batches([asked_of(s) for s in samples], batch_size, max_new_tokens):
            for index, ids in zip(indices, self.generate(group, max_new_tokens, GREEDY), strict=True):
                answers[index] = self._text(ids.tolist())
            done += len(indices)
            if answered is not None:
                answered(done)
        return answers

    def score(self, messages: Sequence[Mapping[str, Any]]) -> Tensor:
        """How likely the last assistant message is, token by token.

        Args:
            messages: `[{"role": ..., "content": "text" or [parts]}, ...]`, as OpenAI and Hugging Face write them; a
                part is `{"type": "text", "text": ...}` or `{"type": SLOT, SLOT: source}`.

        Returns:
            [n] float32 on the CPU: natural log-probability of each token of the message, what the template has the
            model end it with included.

        Raises:
            DataError: the messages are malformed, hold no answer, or are too long.
        """
        return self.score_many([messages], batch_size=1)[0]

    def score_many(self, conversations: Sequence[Sequence[Mapping[str, Any]]], batch_size: int = 8) -> list[Tensor]:
        """`score` of several conversations, in batches and in their order."""
        samples = []
        for number, messages in enumerate(conversations):
            name = f"conversation {number}"
            samples.append(Sample(name, messages_from(messages, None, name)))
        return self.score_samples(samples, batch_size)

    def score_samples(
        self, samples: Sequence[Sample], batch_size: int, scored: Callable[[int], None] | None = None
    ) -> list[Tensor]:
        """`score` of the answer that ends each sample; `scored` is called as `answered` of `answer`."""
        scores, done = [torch.empty(0)] * len(samples), 0
        for indices, group in self._batches(samples, batch_size):
            for index, log_probs in zip(indices, self._score(group), strict=True):
                scores[index] = log_probs.clone()  # outside inference mode: an ordinary tensor
            done += len(indices)
            if scored is not None:
                scored(done)
        return scores

    def _batches(
        self, samples: Sequence[Sample], batch_size: int, new_tokens: int | None = None
    ) -> Iterator[tuple[list[int], list[EncodedSample]]]:
        """Encoded samples of like length with their indices; to be answered if `new_tokens` is given, else scored."""
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}, but must be at least 1.")
        for start in range(0, len(samples), WINDOW * batch_size):
            window = range(start, min(start + WINDOW * batch_size, len(samples)))
            encoded = {index: self._prepare(samples[index], new_tokens) for index in window}
            order = sorted(window, key=lambda index: (len(encoded[index].ids), index))
            for first in range(0, len(order), batch_size):
                indices = order[first : first + batch_size]
                yield indices, [encoded[index] for index in indices]

    def _turn(self, question: str, media: Mapping[str, Any]) -> Message:
        lists = ((slot, given if isinstance(given, (list, tuple)) else [given]) for slot, given in media.items())
        return self.turn(question, [(slot, source) for slot, sources in lists for source in sources])

    def prompt(self, sample: Sample, max_new_tokens: int) -> EncodedSample:
        """The last question of a sample, as `generate` takes it; raises DataError as `answer` does."""
        return self._prepare(asked_of(sample), max_new_tokens)

    def _prepare(self, sample: Sample, new_tokens: int | None) -> EncodedSample:
        if new_tokens is not None and new_tokens < 1:
            raise DataError(f"max_new_tokens is {new_tokens}, but must be at least 1.")
        encoded = self.preparer(sample, generate=new_tokens is not None, supervise="last")
        length, rows = len(encoded.ids), tokens_of_media(encoded.spans)
        if length + (new_tokens or 0) > self.context:
            room = f" and up to {new_tokens} of the answer" if new_tokens else ""
            raise DataError(
                f"{encoded.name}: {length} tokens ({rows} of them of media){room} do not fit into the LLM's context of "
                f"{self.context}. Use fewer media, a shorter text or history, or fewer new tokens."
            )
        return encoded

    @torch.inference_mode()
    def generate(
        self,
        samples: Sequence[EncodedSample],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
    ) -> Tensor:
        """Prompts that end with the generation prompt -> new token ids [B, new], padded after each answer's end."""
        chat = self.preparer.chat
        llm: LanguageModel = self.model.llm
        batch = self._collate(samples, pad_left=True)
        with self.engine.exclusive(), seeded(sampling.seed, devices=True):
            embeds, context = self.model.embed(batch)
            return llm.generate(
                embeds,
                batch.attention_mask,
                batch.position_ids,
                context,
                **options_of(chat, sampling, max_new_tokens),
            )

    @torch.inference_mode()
    def _score(self, samples: Sequence[EncodedSample]) -> list[Tensor]:
        batch = self._collate(samples)
        with self.engine.exclusive():
            log_probs = token_log_probs(self.model(batch).logits, batch).cpu()
        return list(torch.split(log_probs, batch.targets().sum(dim=1).tolist()))

    def _collate(self, samples: Sequence[EncodedSample], pad_left: bool = False) -> Batch:
        batch = collate(samples, self.slots, self.preparer.chat.pad_id, pad_left)
        return batch.to(next(self.model.parameters()).device)

    def _text(self, ids: list[int]) -> str:
        """The text of new ids, up to the end of the answer."""
        return cut(ids, self.preparer.chat).text.strip()
