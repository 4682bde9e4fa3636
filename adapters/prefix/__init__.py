"""`prefix`: learned prompts, to which the tokens of the upper layers attend through a gate."""

from omnivit_adapters.prefix.adapter import PrefixAdapter, PrefixConfig

__all__ = ["PrefixAdapter", "PrefixConfig"]
