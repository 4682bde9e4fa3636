"""`resampler`: a fixed number of learned queries collects information from all tokens of a medium."""

from omnivit_adapters.resampler.adapter import ResamplerAdapter, ResamplerConfig

__all__ = ["ResamplerAdapter", "ResamplerConfig"]
