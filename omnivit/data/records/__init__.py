"""A record of a data file -> the messages of a sample. Pure functions, a module for each form.

- `values`: the JSON object of a record, and the values in it: texts and sources of media.
- `turns`: what every form says of a turn: who speaks, whether it is learnt, the thought before an answer.
- `tags`: `<image>` in a text as the place of a medium, and the lists `images`, `videos`, `audios` beside the turns.
- `typed`: turns whose content is text or a list of typed parts (OpenAI, Hugging Face, ms-swift, LLaMA-Factory).
- `pairs`: questions and answers without roles (`query`/`response`, Alpaca), which become turns of the same form.
- `llava`: LLaVA's conversations, ShareGPT's too.

Text is taken as it stands. Errors say which key is wrong, what was found and what is expected; the caller adds where.
A key that is not read is an error too: what a record says is never lost in silence. Knows no file and no tensor.
"""

from omnivit.data.records.llava import llava_messages
from omnivit.data.records.turns import ROLES
from omnivit.data.records.typed import messages_from, typed_messages
from omnivit.data.records.values import parse

__all__ = ["ROLES", "llava_messages", "messages_from", "parse", "typed_messages"]
