"""`ulip`: point clouds through Point-BERT, as ULIP, ULIP-2 and PointLLM trained it."""

from omnivit_encoders.ulip.encoder import UlipConfig, UlipEncoder, UlipProcessor

__all__ = ["UlipConfig", "UlipEncoder", "UlipProcessor"]
