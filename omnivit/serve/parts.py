"""Content parts of the API -> messages with media. Decides what a client may name as a medium.

By default that is content in the request alone: `data:` URLs and base64. Addresses are fetched only with `--fetch`, and
paths are read only with `--media-root`, inside of it. Files are opened and decoded later, in the helper process of
`omnivit.media.isolate`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from omnivit.contracts.sample import Frames, Media, Message, Part, Role, Text
from omnivit.data.records import values
from omnivit.errors import DataError, MediaError, suggest
from omnivit.media.locate import files_of, opened
from omnivit.serve.failures import ApiError
from omnivit.serve.inputs import FILE, Input, slot_of_file, types_of
from omnivit.serve.schema import Turn
from omnivit.serve.settings import Settings

TEXTS = ("text", "input_text", "output_text")
MAX_FILES = 4096
"""Files of one medium; series of medical images have the most."""
REFUSAL = "refusal"
SOURCES = ("url", "data", "file_data")
"""Keys under which a part's object has the medium."""
_BASE64 = "data:application/octet-stream;base64,"
HINTS = frozenset({"detail", "format", "filename", "mime_type"})
"""Keys of a part's object that have no effect, or only name a file."""
OF_SEVERAL_FILES = ("volume", "video", "page")
"""Kinds of media that may be given as a list of files: DICOM slices, frames, scanned pages."""
ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass
class PartReader:
    """Reads the messages of one request.

    Args:
        inputs: of the model.
        settings: of the server.
        fetch: address, place and limit in bytes -> content; it is called only if the settings allow it.
    """

    inputs: Sequence[Input]
    settings: Settings
    fetch: Callable[[str, str, int], bytes]
    media: int = 0
    """Media of the request so far."""

    def messages(self, turns: Sequence[Turn]) -> list[Message]:
        """All turns.

        Raises:
            ApiError: a part is unknown or malformed, or names a medium that is not allowed, too large, or not there.
        """
        messages = [self._message(turn, f"messages[{k}]") for k, turn in enumerate(turns)]
        if messages[-1].role != "user":
            raise ApiError(
                f"The last message is of the {turns[-1].role}; a conversation must end with a message of the user.",
                param=f"messages[{len(turns) - 1}].role",
            )
        return messages

    def _message(self, turn: Turn, place: str) -> Message:
        for name in ("tool_calls", "function_call", "audio"):
            if getattr(turn, name):
                raise ApiError(
                    f"{place}.{name} is not supported: the model reads text and media.", param=f"{place}.{name}"
                )
        role, content = ROLES[turn.role], turn.content
        if content is None:
            if role != "assistant":
                raise ApiError(f"{place}.content is missing.", param=f"{place}.content")
            return Message(role, (Text(turn.refusal or ""),))
        if isinstance(content, str):
            return Message(role, (Text(content),))
        if not content:
            raise ApiError(f"{place}.content is an empty list; expected a text or parts.", param=f"{place}.content")
        return Message(role, tuple(self._part(part, f"{place}.content[{k}]") for k, part in enumerate(content)))

    def _part(self, part: Mapping[str, Any], place: str) -> Part:
        kind = part.get("type")
        slots = types_of(self.inputs)
        known = ["text", *slots, *([FILE] if self.inputs and FILE not in slots else [])]
        if not isinstance(kind, str) or kind not in (*TEXTS, REFUSAL, *known):
            raise ApiError(
                f"{place}.type is {values.spelled(kind)}, which this model does not take; {suggest(str(kind), known)}",
                param=f"{place}.type",
                code="unknown_part_type",
            )
        key = "text" if kind in TEXTS else kind
        for name in part:
            if name not in ("type", key, "cache_control"):
                raise ApiError(
                    f"{place} has no field {name!r}; {suggest(name, ['type', key])}", param=f"{place}.{name}"
                )
        if kind in TEXTS or kind == REFUSAL:
            text = part.get(key)
            if not isinstance(text, str):
                raise ApiError(f"{place}.{key} is {values.spelled(text)}; expected a text.", param=f"{place}.{key}")
            return Text(text)
        return self._medium(slots.get(kind), part.get(key), f"{place}.{key}")

    def medium(self, part: Mapping[str, Any], place: str) -> Media:
        """A content part that is a medium.

        Raises:
            ApiError: as `messages`; or it is a text.
        """
        medium = self._part(part, place)
        if not isinstance(medium, Media):
            raise ApiError(f"{place}.type is {values.spelled(part.get('type'))}, which is no medium.", param=place)
        return medium

    def _medium(self, slot: str | None, given: object, place: str) -> Media:
        self.media += 1
        if self.media > self.settings.max_media:
            raise ApiError(
                f"The request has more than {self.settings.max_media} media, the server's limit (--max-media).",
                param="messages",
                code="too_many_media",
            )
        addresses, name = _addresses(given, place)
        address = addresses[0]
        if slot is None:
            mime = address[5:].partition(",")[0].partition(";")[0].lower() if address[:5].lower() == "data:" else ""
            path = name if address[:5].lower() == "data:" else urlsplit(address).path
            slot = slot_of_file(self.inputs, path, mime)
            if slot is None:
                raise ApiError(
                    f"{place}: no input of the model is known to read {name or mime or 'this file'!r}. Use the name of "
                    f"an input as the type; {suggest('', [given.slot for given in self.inputs])}",
                    param=place,
                )
        try:
            files = self._files(slot, addresses, place)
        except DataError as error:
            raise ApiError(str(error), param=place, code="invalid_media") from error
        return self._together(slot, files, place) if _is_list(given) else files[0]

    def _files(self, slot: str, addresses: Sequence[str], place: str) -> list[Media]:
        """The files of a medium, which together have the limit of one."""
        if len(addresses) > MAX_FILES:
            raise ApiError(
                f"{place} lists {len(addresses)} files, but a medium may have at most {MAX_FILES}.",
                param=place,
                code="too_many_media",
            )
        files, left = list[Media](), self.settings.max_media_bytes
        for address in addresses:
            medium, size = self._source(Media(slot, None), address, place)
            left -= size
            if left < 0:
                raise too_large(place, self.settings)
            files.append(medium)
        return files

    def _together(self, slot: str, files: Sequence[Media], place: str) -> Media:
        """Several files that are one medium: the slices of a volume, the frames of a video, the pages of a document."""
        modality = next(given.modality for given in self.inputs if given.slot == slot)
        if modality not in OF_SEVERAL_FILES:
            raise ApiError(
                f"{place} lists {len(files)} files, but {modality} media are one file each. Send a part for each.",
                param=place,
            )
        sources = tuple(file.source for file in files)
        root = next((file.root for file in files if file.root is not None), None)
        return Media(slot, Frames(sources) if modality == "video" else sources, root)

    def _source(self, medium: Media, address: str, place: str) -> tuple[Media, int]:
        """A medium with its content, or with its path inside the media root; and its size in bytes."""
        scheme = address.partition(":")[0].lower() if ":" in address else ""
        if scheme == "data":
            content = values.source(address, place)
            assert isinstance(content, bytes)
            if not content:
                raise ApiError(f"{place} is empty: the medium has 0 bytes.", param=place, code="invalid_media")
            return replace(medium, source=content), len(content)
        if scheme in ("http", "https"):
            if not self.settings.fetch:
                raise ApiError(
                    f"{place} is an http(s) address, and this server fetches none. Send the content as a `data:` URL, "
                    "or start the server with --fetch.",
                    param=place,
                    code="fetching_disabled",
                )
            content = self.fetch(address, place, self.settings.max_media_bytes)
            return replace(medium, source=content), len(content)
        path, root = self._path(address, scheme, place)
        medium = replace(medium, source=path, root=str(root))
        try:
            return medium, _size(medium)
        except MediaError as error:
            raise ApiError(
                f"{place}: {values.short(path)} is no file with content in the server's media folder.",
                param=place,
                code="invalid_media",
            ) from error

    def _path(self, address: str, scheme: str, place: str) -> tuple[str, Path]:
        """The path of a file relative to the media root, and that root.

        Links that lead out of it are refused here, and again by `omnivit.media.locate` once the file is open.
        """
        root = self.settings.media_root
        if root is None:
            raise ApiError(
                f"{place} is {values.short(address)}, which is neither a `data:` URL nor base64. Paths of files are "
                "read only from the folder that the server is given with --media-root.",
                param=place,
                code="paths_disabled",
            )
        outside = ApiError(
            f"{place} must be a path inside the server's media folder, without `..` and without links that lead out of "
            f"it: {values.short(address)}.",
            param=place,
            code="path_not_allowed",
        )
        path, root = address, root.resolve()
        if scheme == "file":
            parts = urlsplit(address)
            path = unquote(parts.path)
            if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
                raise outside
        elif scheme and "/" not in address.partition(":")[0]:
            raise outside  # `ftp:`, `gopher:`, `c:`
        pure = PurePosixPath(path)
        if pure.is_absolute():
            try:
                pure = pure.relative_to(PurePosixPath(root.as_posix()))
            except ValueError:
                raise outside from None
        if "\0" in path or "\\" in path or ".." in pure.parts or not pure.parts:
            raise outside
        try:
            inside = Path(os.path.realpath(root / pure)).is_relative_to(root)
        except ValueError:  # half of a surrogate pair, which no name of a file has
            inside = False
        if not inside:
            raise outside
        return str(pure), root


def _size(medium: Media) -> int:
    """Bytes of the files of a medium, which is a path. Raises MediaError where one of them cannot be opened."""
    total = 0
    for file in files_of(medium):
        with opened(file) as source:
            total += source.size
    return total


def too_large(place: str, settings: Settings) -> ApiError:
    """The error for a medium over the limit."""
    return ApiError(
        f"{place} is larger than {settings.max_media_mb:g} MB, the server's limit (--max-media-mb).",
        413,
        place,
        "media_too_large",
    )


def _is_list(given: object) -> bool:
    return isinstance(given, Mapping) and any(isinstance(given.get(key), list) for key in SOURCES)


def _addresses(given: object, place: str) -> tuple[list[str], str]:
    """The addresses of a medium's files, base64 made `data:` URLs; and the name of its file, if the part gives one."""
    if isinstance(given, str):
        given = {"url": given}
    if not isinstance(given, Mapping):
        raise ApiError(f"{place} is {values.spelled(given)}; expected an object with `url` or `data`.", param=place)
    if given.get("file_id"):
        raise ApiError(f"{place}.file_id is not supported: files are not stored. Send `file_data`.", param=place)
    for name in given:
        if name not in (*SOURCES, *HINTS, "file_id"):
            raise ApiError(f"{place} has no field {name!r}; {suggest(str(name), [*SOURCES, *HINTS])}", param=place)
    sources = [key for key in SOURCES if given.get(key) is not None]
    if len(sources) != 1:
        raise ApiError(f"{place} needs exactly one of `url`, `data` and `file_data`.", param=place)
    key, value, name = sources[0], given[sources[0]], given.get("filename")
    listed = value if isinstance(value, list) and value else [value]
    for each in listed:
        if not isinstance(each, str) or not each.strip():
            raise ApiError(f"{place}.{key} is {values.spelled(each)}; expected a text.", param=place)
        if len(listed) > 1 and each.lower().startswith(("http:", "https:")):
            raise ApiError(f"{place}.{key}: a list of files has no http(s) addresses. Send their content.", param=place)
    as_urls = [each if key == "url" or each[:5].lower() == "data:" else f"{_BASE64}{each}" for each in listed]
    return as_urls, name if isinstance(name, str) else ""
