"""One running request: its tokens so far, and when it ends.

Shapes: n tokens so far.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from omnivit.data.chat import Chat
from omnivit.engine.request import Finish, Generation, Step
from omnivit.engine.sampling import generator_of

Stopped = Callable[[Tensor, None], Tensor]
"""New ids [1, n] -> [1] whether a stop text of the template ends in the last one."""


class Row:
    """Takes the tokens of one request, passes them on, and knows when the answer is complete.

    Attributes:
        generation: where the tokens go.
        ids: the tokens so far.
        generator: the source of its draws; None: torch's global generator.
        finish: why the answer is complete; None: it is not.
        error: what made the request fail.
    """

    def __init__(self, generation: Generation, chat: Chat, stopped: Stopped | None, device: torch.device) -> None:
        self.generation, self.request = generation, generation.request
        self.generator = generator_of(self.request.sampling, device)
        self.ids: list[int] = []
        self.finish: Finish | None = None
        self.error: Exception | None = None
        self._chat, self._stopped = chat, stopped

    def put(self, step: Step) -> None:
        """Take the next token."""
        self.ids.append(step.id)
        if self._ended():
            self.finish = "stop"
        elif len(self.ids) >= self.request.max_new_tokens:
            self.finish = "length"
        self.generation.put(step)

    @property
    def leaves(self) -> bool:
        """Whether no more tokens are needed."""
        return self.finish is not None or self.error is not None or self.generation.cancelled

    def close(self) -> None:
        """No more tokens come: the answer is complete, was cancelled, or failed."""
        self.generation.end(self.finish or "cancelled", self.error)

    def _ended(self) -> bool:
        if self.ids[-1] in self._chat.stop_ids:
            return True
        if self._stopped is not None and bool(self._stopped(torch.tensor([self.ids]), None)):
            return True
        if not self.request.stop:
            return False
        text = self._chat.decode(self.ids)  # a stop text may begin inside a token, and extend over several
        return any(stop in text for stop in self.request.stop)
