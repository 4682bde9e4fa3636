"""`mimic_it`: instructions by id, with images from a table of base64 and other instructions as earlier turns."""

from omnivit_readers.mimic_it.reader import MimicITConfig, MimicITReader

__all__ = ["MimicITConfig", "MimicITReader"]
