"""`video`: any image encoder on each frame of a video, and what is to happen between the frames."""

from omnivit_encoders.video.encoder import VideoConfig, VideoEncoder, VideoProcessor

__all__ = ["VideoConfig", "VideoEncoder", "VideoProcessor"]
