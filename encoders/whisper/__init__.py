"""`whisper`: the encoder of OpenAI's Whisper (Radford et al., Robust Speech Recognition via Large-Scale Weak"""

from omnivit_encoders.whisper.encoder import WhisperConfig, WhisperEncoder, WhisperProcessor

__all__ = ["WhisperConfig", "WhisperEncoder", "WhisperProcessor"]
