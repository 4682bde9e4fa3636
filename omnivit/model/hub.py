"""Whether a Hugging Face hub id is available: from the hub, from its cache, or not at all, which is an error at once.

The hub's client tries again for about half a minute, file by file, before it gives up; where nothing answers, its
cached copy is used, or an error says what to do. A folder that stands for the hub, by the variable OMNIVIT_HUB, is
asked first: on machines without a network, and for tests with small models under the names of large ones.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from omnivit.errors import RecipeError

log = logging.getLogger(__name__)

HUB_VARIABLE = "OMNIVIT_HUB"
"""Names a folder with models at `organisation/name`; what is not in it comes from the hub."""
PATIENCE = 5.0
"""Seconds in which the hub must answer; looking up its name included."""
PLAIN = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
"""The names that are looked up in OMNIVIT_HUB."""
OFFLINE = "HF_HUB_OFFLINE is set"
REMEMBERED = 60.0
"""Seconds after which it is asked again."""


def hub_folder() -> Path | None:
    """The folder that OMNIVIT_HUB names, absolute; None where the variable is not set.

    Raises:
        RecipeError: it names no folder.
    """
    text = os.environ.get(HUB_VARIABLE)
    if not text:
        return None
    folder = Path(text).expanduser().absolute()
    if not folder.is_dir():
        raise RecipeError(
            f"The variable {HUB_VARIABLE} is {text!r}, but there is no such folder. Unset it, or set it to a folder "
            f"with models at `organisation/name`; `omnivit zoo tiny FOLDER` creates one with small random models."
        )
    return folder


def in_hub_folder(name: str) -> Path | None:
    """The place of a hub id, or of a file of weights, in the folder that OMNIVIT_HUB names; None where it is not there.

    A path that is absolute, or that begins with a dot, is never looked for there.
    """
    folder = hub_folder() if PLAIN.fullmatch(name) else None
    return folder / name if folder is not None and (folder / name).exists() else None


def on_hand(repository: str) -> Path | str:
    """A hub id itself where the hub answers, else the folder of its cached copy; before both, its place in OMNIVIT_HUB.

    Args:
        repository: `organisation/name`, or `name`.

    Raises:
        RecipeError: the hub does not answer, and the cache has no copy.
    """
    if place := in_hub_folder(repository):
        return place
    reason = _silent()
    if not reason:
        return repository
    cached = _cached(repository)
    if cached is None:
        raise _absent(repository, reason, f"hf download {repository}")
    _say_once(repository, reason)
    return cached


def file_on_hand(repository: str, file: str) -> Path:
    """A file of a model, fetched from the hub or from its cache.

    Args:
        repository: `organisation/name`.
        file: its path in the repository, with `/`.

    Raises:
        RecipeError: the hub does not answer and the cache has no copy, or the hub has no such file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    reason = _silent()
    try:
        place = Path(hf_hub_download(repository, file, local_files_only=bool(reason)))
    except LocalEntryNotFoundError as error:
        raise _absent(f"{repository}/{file}", reason, f"hf download {repository} {file}") from error
    except HfHubHTTPError as error:
        summary = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RecipeError(f"The hub did not give {file!r} of {repository!r}: {summary}") from error
    if reason:
        _say_once(f"{repository}/{file}", reason)
    return place


def _silent() -> str:
    """Why the hub is not to be asked, or does not answer; empty if it does."""
    from huggingface_hub import constants

    return OFFLINE if constants.HF_HUB_OFFLINE else unreachable(int(time.monotonic() // REMEMBERED))


def _absent(name: str, reason: str, download: str) -> RecipeError:
    """The error of a model, or of a file of one, that is neither on the hub nor in its cache."""
    from huggingface_hub import constants

    remedy = "Unset HF_HUB_OFFLINE where there is a network, or download it" if reason == OFFLINE else "Download it"
    folder = hub_folder()
    beside = f"it is not in {HUB_VARIABLE}={folder}, " if folder else ""
    return RecipeError(
        f"{name!r} is not a file or folder here, {beside}the hub {constants.ENDPOINT} cannot be reached ({reason}), "
        f"and the cache {constants.HF_HUB_CACHE} has no copy. {remedy} on a machine with a network "
        f"(`{download}`) and copy the cache here; or set the path of a local folder."
    )


@functools.cache
def say_local(path: str, folder: Path) -> None:
    """Say, once, that a path in the form of a hub id leads to a folder here."""
    log.warning("path %r: %s is used, not the model of this name on the hub. Its full path would say so.", path, folder)


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
    if reason == OFFLINE:  # on purpose
        return
    log.warning("%s: the hub cannot be reached (%s); the cached copy is used.", repository, reason)
