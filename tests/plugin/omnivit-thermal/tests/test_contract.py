"""The plugin contract on ThermalEncoder."""

from omnivit.testing import EncoderContract

from omnivit_thermal.encoder import ThermalEncoder


class TestThermal(EncoderContract):
    encoder = ThermalEncoder
