"""`dialogue`: conversations whose turns list their own media, question-answer lists, and packed histories."""

from omnivit_readers.dialogue.reader import DialogueConfig, DialogueReader

__all__ = ["DialogueConfig", "DialogueReader"]
