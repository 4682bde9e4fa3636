"""Templates whose original code learns the names of roles, too: LLaVA's `_mask_targets`, and Video-LLaMA's copy of it.

There, only what a person says is masked, without the mark `###` before it. The names stand in every prompt, so a model
never writes them; they are supervised so that the loss of a training is the original's.
"""

from __future__ import annotations

from collections.abc import Set

from omnivit.data.labels import Piece
from omnivit.data.text_span import TextSpan


def with_roles(prompt: str, lead: str, mark: str, right: int | None, answers: Set[int]) -> list[Piece]:
    """The template's text between two turns, behind the end of an answer: the pieces of its prompt and lead.

    Args:
        prompt: the text that is part of the prompt.
        lead: what leads to an answer, and is supervised anyway.
        mark: begins a turn.
        right: the turn that follows; None: there is none.
        answers: the turns of the assistant.
    """
    if right is None:  # the mark of the turn that would follow is the end of the answer; this is the space behind it
        return [Piece(TextSpan(prompt), True), Piece(TextSpan(lead), True)]
    start = prompt.rfind(mark)
    if start < 0:
        return [Piece(TextSpan(prompt)), Piece(TextSpan(lead), bool(lead))]
    # before an answer the mark and the name of the role, before a question the mark alone
    end = len(prompt) if right in answers else start + len(mark)
    learnt = [Piece(TextSpan(prompt[:start])), Piece(TextSpan(prompt[start:end]), True), Piece(TextSpan(prompt[end:]))]
    return [*learnt, Piece(TextSpan(lead), True)]
