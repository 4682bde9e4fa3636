"""`dialogue`: conversations whose turns list their own media, question-answer lists, and packed histories."""

from omnivit_readers.dialogue.reader import DialogueReader
from omnivit_readers.dialogue.turns import DialogueConfig

__all__ = ["DialogueConfig", "DialogueReader"]
