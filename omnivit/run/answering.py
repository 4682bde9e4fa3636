"""An answer of the assistant while it grows: text for people who wait, and the reply with all that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from omnivit.data.chat import Chat
from omnivit.data.collate import EncodedSample
from omnivit.engine import Generated, Generation, Step
from omnivit.run.listener import Listener
from omnivit.run.reply import Reply
from omnivit.run.stopping import Answer, cut


class Answering:
    """Iterate over it for pieces of text, which joined are the reply's text; any thread may, and several may.

    Attributes:
        generation: the tokens, as the engine makes them.
        prompt_tokens: tokens of the prompt, those of media included.
        media_tokens: input slot -> tokens of its media in the prompt.
    """

    def __init__(self, generation: Generation, chat: Chat, read: Callable[[Answer], Reply]) -> None:
        prompt: EncodedSample = generation.request.prompt
        self.generation = generation
        self.prompt_tokens = len(prompt.ids)
        self.media_tokens: dict[str, int] = {}
        for span in prompt.spans:
            if span.leads:
                self.media_tokens[span.slot] = self.media_tokens.get(span.slot, 0) + span.length
        self._chat, self._read = chat, read
        self._reply: Reply | None = None

    def __iter__(self) -> Iterator[str]:
        """Pieces of text, as soon as tokens to come cannot change them. Raises what made the request fail."""
        return (text for text, _ in self.pieces() if text)

    def pieces(self) -> Iterator[tuple[str, list[Step]]]:
        """As iteration, each text with the tokens that it completes; the last text may be empty.

        All tokens together are those of the answer, without its end.
        """
        texts: list[str] = []
        steps: list[Step] = []
        stops = (*self._chat.stop_texts, *self.generation.request.stop)
        listener = Listener(lambda ids: self._cut(ids).text.strip(), texts.append, stops)
        ids: list[int] = []
        passed = 0
        for step in self.generation:
            ids.append(step.id)
            steps.append(step)
            listener.put([step.id])
            if texts:
                # while the end of the text is held back, so are the tokens, which may be no part of the answer
                complete = listener.complete
                yield "".join(texts), steps if complete else []
                passed, steps = (len(ids), []) if complete else (passed, steps)
                texts.clear()
        answer = self.answer
        listener.finish(answer.text.strip())
        yield "".join(texts), steps[: max(0, len(answer.ids) - passed)]

    @property
    def generated(self) -> Generated:
        """All tokens, with the one that ended the answer; waits for them."""
        return self.generation.result()

    @property
    def answer(self) -> Answer:
        """The answer without its end: its first tokens and its text; waits for it."""
        return self._cut(self.generated.ids)

    def reply(self) -> Reply:
        """The complete answer with what the heads read off it; waits for it. What was cancelled ends where it was."""
        if self._reply is None:
            self._reply = self._read(self.answer)
        return self._reply

    def cancel(self) -> None:
        """Stop; the tokens so far stay."""
        self.generation.cancel()

    def _cut(self, ids: Sequence[int]) -> Answer:
        return cut(ids, self._chat, self.generation.request.stop)
