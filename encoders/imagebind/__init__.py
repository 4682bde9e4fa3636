"""`imagebind`: ImageBind's embeddings of pictures, clips, sounds, depth maps, thermal pictures and motion (IMU)."""

from omnivit_encoders.imagebind.encoder import ImageBindEncoder

__all__ = ["ImageBindEncoder"]
