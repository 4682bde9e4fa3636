"""One server for all tests of a session, and one browser with a page and its media."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from serve_support import Server, make_assistant, serving

from omnivit.serve.settings import Settings

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model with every kind of input behind a real server."""
    root = tmp_path_factory.mktemp("serve")
    assistant, media = make_assistant(root)
    settings = Settings(name="any", max_body_mb=2, max_media_mb=1, max_media=9, media_root=root, slots=4, queue=8)
    with serving(assistant, settings) as url:
        yield Server(url, assistant, media)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page's run, its media and what the browser downloads."""
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="session")
def files(place: Path) -> dict[str, Path]:
    """Slot -> a file, of the run that the page shows."""
    from slots_support import slots_run

    return slots_run(place)[1]


@pytest.fixture(scope="session")
def driver(place: Path) -> Iterator[Chrome]:
    """A browser."""
    from browser_support import browser  # needs selenium

    with browser(place / "downloads") as opened:
        yield opened


@pytest.fixture(scope="session")
def address(place: Path, files: dict[str, Path]) -> Iterator[str]:
    """The chat page of a tiny model with six kinds of input."""
    from browser_support import running

    import omnivit
    from omnivit.serve.app import create_app

    run = place / "run"
    assert files
    with running(create_app(omnivit.load(run, "cpu"), Settings(name="tiny", run=run))) as url:
        yield url
