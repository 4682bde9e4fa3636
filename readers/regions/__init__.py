"""`regions`: boxes in questions and answers, as Shikra-RD, Ferret, PVIT and tables of boxes publish them."""

from omnivit_readers.regions.reader import RegionsReader
from omnivit_readers.regions.records import RegionsConfig

__all__ = ["RegionsConfig", "RegionsReader"]
