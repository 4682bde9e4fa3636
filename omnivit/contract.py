"""The version of the plugin contract: what this OmniViT speaks, what it still accepts, and what of it has changed."""

from __future__ import annotations

CONTRACT = 1
"""The contract of this OmniViT; a plugin says which one it was written for: `contract = 1`."""
