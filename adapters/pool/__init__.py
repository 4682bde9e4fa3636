"""`pool`: fewer tokens by means of them, or by concatenating neighbours."""

from omnivit_adapters.pool.adapter import PoolAdapter, PoolConfig

__all__ = ["PoolAdapter", "PoolConfig"]
