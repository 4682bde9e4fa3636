"""`resampler`: learned queries gather the rows of a medium, however many, into a fixed number."""

from omnivit_adapters.resampler.adapter import ResamplerAdapter

__all__ = ["ResamplerAdapter"]
