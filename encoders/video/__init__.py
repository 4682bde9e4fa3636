"""`video`: any image encoder on each frame of a clip, and what is to happen between the frames."""

from omnivit_encoders.video.encoder import VideoEncoder

__all__ = ["VideoEncoder"]
