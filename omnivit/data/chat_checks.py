"""What of a conversation is refused before it is encoded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from omnivit.contracts.sample import Media, Message, Token
from omnivit.errors import DataError, suggest


def check_lengths(media: Sequence[Media], lengths: Sequence[int]) -> None:
    """Refuse numbers of tokens that do not fit the media.

    Raises:
        DataError: there are more or fewer of them than media, or one is negative.
    """
    if len(media) != len(lengths):
        raise DataError(f"The conversation contains {len(media)} media, but {len(lengths)} lengths are given.")
    for medium, length in zip(media, lengths, strict=True):
        if length < 0:
            raise DataError(f"Medium {medium} (slot {medium.slot!r}) has {length} tokens; expected at least 0.")


def check_tokens(messages: Sequence[Message], declared: Collection[str], apart: Mapping[str, str]) -> None:
    """Refuse parts that are tokens which the recipe does not declare.

    Args:
        messages: the conversation.
        declared: the tokens that data may write.
        apart: token with another meaning -> the meaning, as the end of a sentence.

    Raises:
        DataError: names the message, the token and the reason.
    """
    for number, message in enumerate(messages):
        for part in message.parts:
            if not isinstance(part, Token) or part.token in declared:
                continue
            if part.token in apart:
                reason = f"which {apart[part.token]}, so that data cannot write it."
            else:
                known = suggest(part.token, declared)
                reason = f"which the recipe does not declare in `llm.tokens` or in the stage's `markup`; {known}"
            raise DataError(f"message {number + 1} contains the token {part.token!r}, {reason}")
