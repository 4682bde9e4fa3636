"""Where vLLM is. Imports no library, so that the command line can check it first."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from omnivit.serve.settings import SettingsError

BACKEND_KEY_VARIABLE = "OMNIVIT_BACKEND_KEY"
START = "vllm serve FOLDER --enable-prompt-embeds"
"""How vLLM is started; FOLDER is an export."""
REMEDY = f"Start it with `{START}`, where FOLDER is what `omnivit export RUN --to merged --out FOLDER` writes."


@dataclass(frozen=True)
class Address:
    """A server of vLLM.

    Raises SettingsError where the URL is not that of a server, or the key cannot be sent.
    """

    url: str
    """Such as `http://127.0.0.1:8001`; `/v1` may follow."""
    key: str | None = field(default=None, repr=False)
    """The server's API key; None: it has none."""
    model: str | None = None
    """The model's name there; None: the only one."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise SettingsError(f"--url {self.url}: {error}.") from error
        if parts.scheme not in ("http", "https") or not host or port == 0 or parts.query or parts.fragment:
            raise SettingsError(f"--url {self.url}: expected the URL of a vLLM server, such as http://127.0.0.1:8001.")
        if parts.username is not None:
            raise SettingsError(
                f"--url contains a user name. Give vLLM's API key by the variable {BACKEND_KEY_VARIABLE} or by "
                f"--backend-key."
            )
        if self.key is not None and (not self.key.strip() or not self.key.isascii() or not self.key.isprintable()):
            raise SettingsError("vLLM's API key is empty, or has characters that a header cannot contain.")

    @property
    def base(self) -> str:
        """The URL without `/v1`."""
        return self.url.rstrip("/").removesuffix("/v1").rstrip("/")
