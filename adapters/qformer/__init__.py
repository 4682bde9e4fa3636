"""`qformer`: learned queries that collect information from a medium, through a BERT with cross-attention."""

from omnivit_adapters.qformer.adapter import QFormerAdapter, QFormerConfig

__all__ = ["QFormerAdapter", "QFormerConfig"]
