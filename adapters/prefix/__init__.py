"""`prefix`: learned prompts, to which the tokens of the upper layers attend through a gate."""

from omnivit_adapters.prefix.adapter import PrefixAdapter

__all__ = ["PrefixAdapter"]
