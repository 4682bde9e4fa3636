"""Whether a Hugging Face hub id is available: from the hub, from its cache, or not at all, which is an error at once.

The hub's client tries again for about half a minute, file by file, before it gives up; where nothing answers, its
cached copy is used, or an error says what to do.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from omnivit.errors import RecipeError

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds in which the hub must answer; looking up its name included."""
REMEMBERED = 60.0
"""Seconds after which it is asked again."""


def on_hand(repository: str) -> Path | str:
    """A hub id itself where the hub answers, else the folder of its cached copy.

    Args:
        repository: `organisation/name`, or `name`.

    Raises:
        RecipeError: the hub does not answer, and the cache has no copy.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    reason = "HF_HUB_OFFLINE is set" if offline else unreachable(int(time.monotonic() // REMEMBERED))
    if not reason:
        return repository
    cached = _cached(repository)
    if cached is None:
        remedy = "Unset HF_HUB_OFFLINE where there is a network, or download it" if offline else "Download it"
        raise RecipeError(
            f"{repository!r} is not a file or folder here, the hub {constants.ENDPOINT} cannot be reached ({reason}), "
            f"and the cache {constants.HF_HUB_CACHE} has no copy. {remedy} on a machine with a network "
            f"(`hf download {repository}`) and copy the cache here; or set the path of a local folder."
        )
    if not offline:
        _say_once(repository, reason)
    return cached


@functools.lru_cache(maxsize=1)
def unreachable(moment: int = 0) -> str:
    """Why the hub does not answer; empty if it does. `moment` tells calls apart that shall not share an answer."""
    del moment
    from huggingface_hub import constants

    reasons = [f"no answer within {PATIENCE:g} s"]

    def ask() -> None:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=PATIENCE).close()
        except (urllib.error.HTTPError, ValueError):
            reasons[0] = ""  # it answers: whether it has the model is its client's question
        except urllib.error.URLError as error:
            certificate = "certificate" in str(error.reason).lower()  # the client may know others
            reasons[0] = "" if certificate else str(error.reason)
        except OSError as error:
            reasons[0] = str(error)
        else:
            reasons[0] = ""

    thread = threading.Thread(target=ask, daemon=True)  # looking up a name cannot be given a limit otherwise
    thread.start()
    thread.join(PATIENCE)
    return reasons[0]


def _cached(repository: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


@functools.cache
def _say_once(repository: str, reason: str) -> None:
    log.warning("%s: the hub cannot be reached (%s); the cached copy is used.", repository, reason)
