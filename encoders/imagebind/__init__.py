"""`imagebind`: ImageBind's embeddings of images, videos, audio, depth maps, thermal images and motion (IMU)."""

from omnivit_encoders.imagebind.encoder import ImageBindConfig, ImageBindEncoder, ImageBindProcessor

__all__ = ["ImageBindConfig", "ImageBindEncoder", "ImageBindProcessor"]
