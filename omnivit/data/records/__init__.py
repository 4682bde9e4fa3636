"""A record of a data file -> the messages of a sample. Pure functions, a module for each form.

- `values`: the JSON object of a record, and the values in it: texts and sources of media.
- `turns`: what all forms have in common: the speaker, whether a turn is trained on, the reasoning before an answer.
- `tags`: `<image>` in a text as the place of a medium, and the lists `images`, `videos`, `audios` next to the turns.
- `typed`: turns whose content is text or a list of typed parts (OpenAI, Hugging Face, ms-swift, LLaMA-Factory).
- `pairs`: questions and answers without roles (`query`/`response`, Alpaca), which become turns of the same form.
- `llava`: LLaVA's conversations, ShareGPT's too.

Text is not changed. Errors name the key, its value and what is expected; the caller adds the file and line. A key that
is not read is an error too, so that nothing in a record is lost silently. Knows no file and no tensor.
"""

from omnivit.data.records.llava import llava_messages
from omnivit.data.records.turns import ROLES
from omnivit.data.records.typed import messages_from, typed_messages
from omnivit.data.records.values import parse

__all__ = ["ROLES", "llava_messages", "messages_from", "parse", "typed_messages"]
