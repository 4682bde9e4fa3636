"""One server for all tests of a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serve_support import Server, make_assistant, serving

from omnivit.serve.settings import Settings


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model with every kind of input behind a real server."""
    root = tmp_path_factory.mktemp("serve")
    assistant, media = make_assistant(root)
    settings = Settings(name="any", max_body_mb=2, max_media_mb=1, max_media=9, media_root=root, slots=4, queue=8)
    with serving(assistant, settings) as url:
        yield Server(url, assistant, media)
