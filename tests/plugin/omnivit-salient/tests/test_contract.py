"""The plugin contract on SalientAdapter."""

from omnivit.testing import AdapterContract

from omnivit_salient import SalientAdapter


class TestSalient(AdapterContract):
    adapter = SalientAdapter
