"""The plugin contract on LogbookReader."""

from omnivit.testing import ReaderContract

from omnivit_logbook import LogbookReader


class TestLogbook(ReaderContract):
    reader = LogbookReader
