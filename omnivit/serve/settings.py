"""What the user of the server decides. Knows no library of web servers, so that the command line can check it first."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from omnivit.errors import OmniVitError

KEY_VARIABLE = "OMNIVIT_API_KEY"


class SettingsError(OmniVitError):
    """The server must not, or cannot, be started with these settings."""


@dataclass(frozen=True)
class Settings:
    """How the server answers, and what it refuses."""

    name: str = "omnivit"
    """The model's name in the API."""
    api_key: str | None = field(default=None, repr=False)
    """Requests must have it as `Authorization: Bearer KEY`; None: no key."""
    host: str = "127.0.0.1"
    """The address that the server is bound to."""
    fetch: bool = False
    """Whether media may be given as http(s) URLs."""
    media_root: Path | None = None
    """Media may be given as paths of files in this folder; None: no paths."""
    max_body_mb: float = 64
    """Limit on a request's body, in MB."""
    max_media: int = 16
    """Limit on the number of media in a request."""
    max_media_mb: float = 32
    """Limit on each medium, in MB."""
    max_choices: int = 8
    """Limit on `n`, the answers to one request."""
    default_tokens: int = 256
    """Limit on an answer's tokens where a request has none."""
    timeout_s: float = 300
    """Seconds that a request may take."""
    queue: int = 64
    """Requests that wait; more are refused with status 429."""
    slots: int = 8
    """Requests that run at the same time."""
    run: Path | None = None
    """The run folder, for pages that show its data."""

    def __post_init__(self) -> None:
        for name in ("max_body_mb", "max_media", "max_media_mb", "max_choices", "default_tokens", "timeout_s", "slots"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} is {getattr(self, name)}, but must be greater than 0.")
        if self.queue < 0:
            raise SettingsError(f"queue is {self.queue}, but must be at least 0.")
        if self.api_key is not None and (not self.api_key.strip() or not self.api_key.isascii()):
            raise SettingsError("The API key is empty, or has characters outside ASCII. Give another one.")
        if self.media_root is not None and not self.media_root.is_dir():
            raise SettingsError(f"--media-root {self.media_root} is not a folder.")
        if not self.is_local and self.api_key is None:
            raise SettingsError(
                f"The server would answer everybody who reaches {self.host}. Protect it with a key, by the environment "
                f"variable {KEY_VARIABLE} or by --api-key, or bind it to 127.0.0.1 (the default)."
            )

    @property
    def is_local(self) -> bool:
        """Whether only processes of this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def places(self) -> int:
        """The most answers that run and wait."""
        return self.slots + self.queue

    @property
    def max_body(self) -> int:
        """Limit on a request's body, in bytes."""
        return int(self.max_body_mb * 1e6)

    @property
    def max_media_bytes(self) -> int:
        """Limit on each medium, in bytes."""
        return int(self.max_media_mb * 1e6)
