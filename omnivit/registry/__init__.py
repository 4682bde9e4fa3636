"""Entry points -> plugin classes: names, health, versions and advice. Imports neither a plugin nor torch."""

from omnivit.registry.registry import REFERENCE, Health, Listing, Registry, damaged, owner_of, registered_owner

__all__ = ["REFERENCE", "Health", "Listing", "Registry", "damaged", "owner_of", "registered_owner"]
