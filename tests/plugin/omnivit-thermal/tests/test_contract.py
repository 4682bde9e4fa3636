"""The plugin contract on ThermalEncoder."""

from omnivit.testing.encoder import EncoderContract

from omnivit_thermal.encoder import ThermalEncoder


class TestThermal(EncoderContract):
    encoder = ThermalEncoder
