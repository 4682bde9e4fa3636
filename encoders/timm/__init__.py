"""`timm`: any backbone of timm as an encoder; its feature map becomes a grid of tokens."""

from omnivit_encoders.timm.encoder import TimmConfig, TimmEncoder
from omnivit_encoders.timm.processor import TimmProcessor

__all__ = ["TimmConfig", "TimmEncoder", "TimmProcessor"]
