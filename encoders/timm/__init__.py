"""`timm`: any backbone of timm as an encoder; its feature map becomes a grid of tokens."""

from omnivit_encoders.timm.encoder import TimmConfig, TimmEncoder, TimmProcessor

__all__ = ["TimmConfig", "TimmEncoder", "TimmProcessor"]
