"""The files that data come in: JSON Lines and arrays, arrays under a key, objects of objects, CSV, and others.

`open_records` opens a file as its kind needs; what it returns has records by number, whatever the kind. Knows no
sample: the reader interprets records.
"""

from omnivit.data.containers.base import RecordOptions, Records
from omnivit.data.containers.opening import open_records

__all__ = ["RecordOptions", "Records", "open_records"]
