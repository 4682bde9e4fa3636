"""A chat template of OmniViT as text that llama.cpp renders.

OmniViT's named templates take the content of a message as parts, each medium with its `placeholder`. llama.cpp gives a
text, or parts in which a medium is a text of its own; so the file's template brings both into OmniViT's form first.
"""

from __future__ import annotations

from omnivit.data.chat import Chat

_PARTS = """{%- set shaped = namespace(messages=[]) -%}
{%- for message in messages -%}
  {%- set given = message['content'] -%}
  {%- set content = namespace(parts=[]) -%}
  {%- if given is string -%}
    {%- set content.parts = [{'type': 'text', 'text': given}] -%}
  {%- else -%}
    {%- for part in given -%}
      {%- if part['type'] == 'text' -%}
        {%- set content.parts = content.parts + [{'type': 'text', 'text': part['text']}] -%}
      {%- else -%}
        {%- set content.parts = content.parts + [{'type': part['type'], 'placeholder': part['text']}] -%}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- set shaped.messages = shaped.messages + [{'role': message['role'], 'content': content.parts}] -%}
{%- endfor -%}
{%- set messages = shaped.messages -%}
"""


def template_of(chat: Chat) -> str:
    """The Jinja text for `tokenizer.chat_template`."""
    template = chat._template
    return _PARTS + template.text if template._marker.typed and not chat._placeholders else template.text
