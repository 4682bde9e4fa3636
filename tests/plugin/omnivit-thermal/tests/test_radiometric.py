"""`.rad` files: what is written is read, and what cannot be is refused."""

from __future__ import annotations

import numpy as np
import pytest

from omnivit_thermal.radiometric import RadiometricError, Thermogram, pack, unpack

IMAGE = Thermogram(np.arange(29000, 29006, dtype=np.uint16).reshape(2, 3), emissivity=0.5)


def test_what_is_written_is_read() -> None:
    found = unpack(pack(IMAGE))
    assert np.array_equal(found.counts, IMAGE.counts)
    assert found.emissivity == 0.5
    np.testing.assert_allclose(found.kelvin(), IMAGE.kelvin(), rtol=1e-6)


def test_a_black_body_is_as_hot_as_it_seems() -> None:
    image = Thermogram(np.array([[30000]], dtype=np.uint16), emissivity=1.0)
    assert image.kelvin().item() == pytest.approx(300.0)


def test_what_hardly_shines_is_hotter_than_it_seems() -> None:
    shiny = Thermogram(np.array([[35000]], dtype=np.uint16), emissivity=0.1)
    expected = ((350.0**4 - 0.9 * 293.15**4) / 0.1) ** 0.25
    assert shiny.kelvin().item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "does not begin"),
        (b"JPEG" + bytes(60), "does not begin"),
        (pack(IMAGE)[:-1], "11 bytes follow"),
        (pack(IMAGE) + b"\0", "13 bytes follow"),
        (pack(IMAGE)[:-1] + b"\xff", "checksum"),
        (pack(IMAGE)[:4] + b"\x02" + pack(IMAGE)[5:], "version 2"),
        (pack(Thermogram(IMAGE.counts, emissivity=0.0)), "cannot be"),
        (pack(Thermogram(IMAGE.counts, gain=float("nan"))), "cannot be"),
        (pack(Thermogram(np.zeros((0, 3), dtype=np.uint16))), "0 x 3"),
    ],
)
def test_what_is_no_image_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(RadiometricError, match=reason):
        unpack(content)
