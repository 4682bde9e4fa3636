"""The requests that run together: prompts join, every step gives each of them a token, and those that end leave.

Shapes: n running requests, B joining ones, T tokens of their prompts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omnivit.contracts.decoding import Decoding
from omnivit.engine.request import Step
from omnivit.engine.row import Row
from omnivit.engine.sampling import draw, ranked


class Running:
    """Requests by the number of their row in the model's state.

    Attributes:
        rows: the requests, in the order of their rows.
    """

    def __init__(self, decoding: Decoding, device: torch.device) -> None:
        self.decoding, self.device = decoding, device
        self.rows: list[Row] = []

    def join(self, rows: Sequence[Row], embeds: Tensor, mask: Tensor, positions: Tensor) -> None:
        """Add requests by their prompts [B, T, D], padded on the left, and give them their first token."""
        logits = self.decoding.join(embeds, mask, positions)
        self.rows += rows
        self._put(rows, logits)

    def step(self) -> None:
        """Give every request its next token."""
        ids = torch.tensor([row.ids[-1] for row in self.rows], device=self.device)
        self._put(self.rows, self.decoding.step(ids))

    def leaving(self) -> list[Row]:
        """Take out the requests that are complete or cancelled."""
        left = []
        for number in reversed(range(len(self.rows))):
            row = self.rows[number]
            if row.leaves:
                self.decoding.leave(number)
                self.rows[number] = self.rows[-1]  # as the model's state does it
                self.rows.pop()
                left.append(row)
        return left

    def _put(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Choose the next token of each request: logits [n, V]. A request whose token cannot be chosen fails alone."""
        scores = self._adjusted(rows, logits)
        likeliest = scores.argmax(dim=-1).tolist()
        for number, row in enumerate(rows):
            try:
                id = likeliest[number]
                if not row.request.sampling.greedy:
                    id = draw(scores[number, None].float(), row.request.sampling, row.generator)
                row.put(_step(id, logits[number], row.request.logprobs))
            except Exception as error:
                row.error = error

    def _adjusted(self, rows: Sequence[Row], logits: Tensor) -> Tensor:
        """The logits that tokens are chosen by, where the model's own settings change them."""
        adjust = self.decoding.adjust
        if adjust is None:
            return logits
        scores = logits.float()
        ids = (torch.tensor([row.ids], dtype=torch.long, device=logits.device) for row in rows)
        return torch.cat([adjust(of_row, scores[n, None]) for n, of_row in enumerate(ids)])


def _step(id: int, logits: Tensor, count: int | None) -> Step:
    """A token with what is reported of it: logits [V] as the model gave them."""
    return Step(id) if count is None else Step(id, *ranked(logits.float().log_softmax(dim=-1), id, count))
