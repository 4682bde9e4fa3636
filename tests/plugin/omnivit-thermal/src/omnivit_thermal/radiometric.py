"""`.rad` files: what a thermal camera counted, and what it takes to know the temperature of the surface.

Little-endian: the letters RADM; version (u8, 1) and a spare byte; columns, lines (u16); kelvin a count and kelvin at
count zero, emissivity of the surface, temperature of its surroundings in kelvin (f32); CRC-32 of what follows (u32);
then lines x columns counts (u16), line by line.

Shapes: H lines, W columns.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEADER = struct.Struct("<4sBxHHffffI")
MAGIC, VERSION = b"RADM", 1


class RadiometricError(ValueError):
    """The bytes are no radiometric image; says why."""


@dataclass(frozen=True)
class Thermogram:
    """A radiometric image."""

    counts: NDArray[np.uint16]
    """[H, W]"""
    gain: float = 0.01
    """Kelvin a count."""
    offset: float = 0.0
    """Kelvin at count zero."""
    emissivity: float = 0.95
    """Of the surface, above 0 and at most 1."""
    surroundings: float = 293.15
    """Temperature in kelvin of what the surface reflects."""

    def kelvin(self) -> NDArray[np.float32]:
        """[H, W] temperature of the surface: a grey body sends e T^4 of its own and reflects (1 - e) T_s^4."""
        apparent = self.counts.astype(np.float64) * self.gain + self.offset
        own = (apparent**4 - (1 - self.emissivity) * self.surroundings**4) / self.emissivity
        return np.asarray(np.clip(own, 0, None) ** 0.25, dtype=np.float32)


def pack(image: Thermogram) -> bytes:
    """The file of an image."""
    data = np.ascontiguousarray(image.counts, "<u2").tobytes()
    lines, columns = image.counts.shape
    facts = (image.gain, image.offset, image.emissivity, image.surroundings)
    return HEADER.pack(MAGIC, VERSION, columns, lines, *facts, zlib.crc32(data)) + data


def unpack(content: bytes) -> Thermogram:
    """The image of a file.

    Raises:
        RadiometricError: it is none, of a later version, damaged, or says what cannot be.
    """
    if len(content) < HEADER.size or not content.startswith(MAGIC):
        raise RadiometricError(f"does not begin as a radiometric image does ({MAGIC.decode()} and a header)")
    _, version, columns, lines, *facts, checksum = HEADER.unpack_from(content)
    data = content[HEADER.size :]
    if version != VERSION:
        raise RadiometricError(f"is of version {version}; only {VERSION} is known")
    if not columns * lines or len(data) != 2 * columns * lines:
        raise RadiometricError(f"declares {lines} x {columns} counts of 2 bytes, but {len(data)} bytes follow")
    if zlib.crc32(data) != checksum:
        raise RadiometricError("is damaged: its checksum differs")
    image = Thermogram(np.frombuffer(data, "<u2").reshape(lines, columns), *facts)
    if not np.isfinite(facts).all() or image.gain <= 0 or not 0 < image.emissivity <= 1 or image.surroundings < 0:
        raise RadiometricError(f"has a header that cannot be: gain, offset, emissivity, surroundings are {facts}")
    return image
