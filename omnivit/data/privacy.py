"""What a run that has to stay silent about its samples writes instead: where they stand, and a hash of the rest.

`data.privacy: true` asks for it. Messages of readers and decoders quote paths and values of records, which may name a
patient; no part of them is kept. Whoever has the data finds the sample by its number.
"""

from __future__ import annotations

import hashlib


def hidden(text: str) -> str:
    """16 hexadecimal digits in place of a path or value: equal for equal ones. Who can guess it can confirm it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def reason(error: Exception, place: str, private: bool) -> str:
    """Why a sample was refused, for state and reports.

    Args:
        error: what its reader or a decoder said.
        place: of the sample, without a name of it: `sample 7 of data[0]`.
        private: as `data.privacy`.
    """
    if not private:
        return str(error)
    return f"{place}: {type(error).__name__} (withheld by data.privacy: {hidden(str(error))})"
