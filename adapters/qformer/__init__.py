"""`qformer`: learned queries that gather what matters of a medium, through a BERT with cross-attention."""

from omnivit_adapters.qformer.adapter import QFormerAdapter

__all__ = ["QFormerAdapter"]
