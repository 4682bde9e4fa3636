"""A trained model in use: questions in, answers out, and the probability of given answers.

The path from sample to tokens is the one that training takes (`omnivit.data.prepare`); only the limit differs: a prompt
may fill the LLM's context, however short the samples of the training were.

Shapes: B samples of a batch, T tokens, V vocabulary, n supervised tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from omnivit.contracts.batch import Batch
from omnivit.contracts.llm import LanguageModel
from omnivit.contracts.sample import Message, Sample
from omnivit.data.collate import EncodedSample, collate
from omnivit.data.prepare import Preparer
from omnivit.data.records import messages_from
from omnivit.engine import GREEDY, AnyEngine, Engine, Request, Sampling
from omnivit.engine.alone import options_of
from omnivit.errors import DataError, suggest
from omnivit.model.omni import OmniModel
from omnivit.recipe import Recipe
from omnivit.run.answering import Answering
from omnivit.run.asked import as_path, asked_of
from omnivit.run.prompts import TOO_LONG, Prompt, by_length, encoded_of
from omnivit.run.reply import Prediction, Reply, message_of, read_heads
from omnivit.run.stopping import Answer, cut
from omnivit.seeds import seeded
from omnivit.train.losses import token_log_probs

__all__ = ["Assistant", "Sampling"]
WINDOW = 16
"""Batches that are prepared together and sorted by length: little padding, and memory that stays within bounds."""


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
        self.engine: AnyEngine = Engine(self.model, preparer.chat)

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
        prompt = self.prepare(messages, max_new_tokens=max_new_tokens)
        return self.begin(prompt, max_new_tokens=max_new_tokens, sampling=sampling, stop=stop, logprobs=logprobs)

    def prepare(self, conversation: Sequence[Message] | Sample, *, max_new_tokens: int = 256) -> Prompt:
        """Read and prepare the media of a conversation, once for all answers that `begin` begins from it.

        Args:
            conversation: turns; or a sample, whose answers at its end are left out.
            max_new_tokens: of the longest answer.

        Raises:
            DataError: unreadable media, too long for the LLM's context, or a sample without a question.
        """
        sample = asked_of(conversation) if isinstance(conversation, Sample) else Sample("question", tuple(conversation))
        return Prompt(encoded_of(self.preparer, sample, max_new_tokens), tuple(sample.media()))

    def begin(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 256,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
    ) -> Answering:
        """Begin an answer to a prepared conversation; as `start`."""
        request = Request(prompt.encoded, max_new_tokens, sampling, tuple(stop), logprobs)
        return Answering(self.engine.submit(request), self.preparer.chat, lambda answer: self._reply(prompt, answer))

    def replies(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """Answer prompts together, greedily, in one batch."""
        rows = self.generate([prompt.encoded for prompt in prompts], max_new_tokens).tolist()
        return [self._reply(prompt, cut(ids, self.preparer.chat)) for prompt, ids in zip(prompts, rows, strict=True)]

    def _reply(self, prompt: Prompt, answer: Answer) -> Reply:
        """An answer with what the heads and the codec of boxes read off it."""
        chat, text = self.preparer.chat, answer.text.strip()
        predictions: tuple[Prediction, ...] = ()
        if not set(chat.token_ids().values()).isdisjoint(answer.ids):  # else nobody needs to wait for the model
            with self.engine.exclusive():
                predictions = read_heads(self.model, prompt.encoded, answer.ids, chat)
        areas = self.preparer.areas_in(text, prompt.media)
        return Reply(text, message_of(answer, chat), predictions).with_areas(areas)

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
            encoded = {index: encoded_of(self.preparer, samples[index], new_tokens) for index in window}
            for indices in by_length(encoded, batch_size):
                yield indices, [encoded[index] for index in indices]

    def _turn(self, question: str, media: Mapping[str, Any]) -> Message:
        lists = ((slot, given if isinstance(given, (list, tuple)) else [given]) for slot, given in media.items())
        return self.turn(question, [(slot, source) for slot, sources in lists for source in sources])

    def prompt(self, sample: Sample, max_new_tokens: int) -> EncodedSample:
        """The last question of a sample, as `generate` takes it; raises DataError as `answer` does."""
        return self.prepare(sample, max_new_tokens=max_new_tokens).encoded

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
