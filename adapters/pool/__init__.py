"""`pool`: fewer rows by means of them, or by laying neighbours side by side"""

from omnivit_adapters.pool.adapter import PoolAdapter

__all__ = ["PoolAdapter"]
