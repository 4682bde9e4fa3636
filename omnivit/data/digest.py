"""SHA-256 of large files, computed once: cached by device, inode, size and time of the last change."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

from omnivit.files import cache_dir, note_use, write_text

_BLOCK = 1 << 20
_log = logging.getLogger(__name__)


def file_sha256(path: Path) -> str:
    """The SHA-256 of all bytes of a file, in hexadecimal; computed again only if the file has changed.

    Raises:
        OSError: it cannot be read.
    """
    kept = _kept(path)
    try:
        text = kept.read_text("ascii")
        if re.fullmatch("[0-9a-f]{64}", text):
            note_use(kept)
            return text
    except (OSError, ValueError):
        pass
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if _kept(path) == kept:  # else the file changed while it was read, and the hash fits no state of it
        _keep(kept, digest.hexdigest())
    return digest.hexdigest()


def _kept(path: Path) -> Path:
    status = path.stat()
    facts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return cache_dir() / "digests" / "-".join(map(str, facts))


def _keep(target: Path, text: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, text)
    except OSError as error:
        _log.warning("Cannot write %s (%s); it will be computed again next time.", target, error.strerror or error)
