"""`clip`: any Hugging Face vision transformer of one image size as an encoder."""

from omnivit_encoders.clip.config import ClipConfig
from omnivit_encoders.clip.encoder import ClipEncoder
from omnivit_encoders.clip.processor import ClipProcessor

__all__ = ["ClipConfig", "ClipEncoder", "ClipProcessor"]
