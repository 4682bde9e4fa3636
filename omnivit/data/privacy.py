"""`data.privacy: true`: reports name a sample by its number, and give a hash in place of an error's text.

Messages of readers and decoders quote paths and values of records, which may name a patient; no part of them is kept.
A person who has the data can find the sample by its number.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def hidden(text: str) -> str:
    """16 hexadecimal digits in place of a path or value, equal for equal ones. A guess of the value can be checked."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def without_root(text: str, root: str) -> str:
    """A text that names files below the data root, with their paths relative to it: it is read on other machines."""
    return text.replace(f"{Path(root).resolve()}{os.sep}", "") if root else text


def reason(error: Exception, place: str, private: bool, root: str = "") -> str:
    """Why a sample was refused, for state and reports.

    Args:
        error: of its reader or a decoder.
        place: of the sample, without its name: `sample 7 of data[0]`.
        private: as `data.privacy`.
        root: `data.root`; paths inside it are given without it.
    """
    if not private:
        return without_root(str(error), root)
    return f"{place}: {type(error).__name__} (withheld by data.privacy: {hidden(str(error))})"
