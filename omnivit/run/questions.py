"""A file of questions for a run, opened as the run's own data were. Reads no tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from omnivit.data.containers.dataset import is_on_hub
from omnivit.data.opening import open_reader
from omnivit.errors import DataError
from omnivit.run.folder import RECIPE
from omnivit.run.overrides import load_opened
from omnivit.run.trust import require as require_trust

if TYPE_CHECKING:
    from omnivit.contracts.reader import Reader
    from omnivit.recipe import DataSource


def media_root(data: Path, root: Path | None) -> Path:
    """The folder of relative media paths: `root`, or the folder of the file.

    Raises:
        DataError: there is no such folder.
    """
    folder = (root or data.parent).resolve()
    if not folder.is_dir():
        raise DataError(f"--root {folder} is not a folder.")
    return folder


def open_questions(
    run: Path,
    data: Path,
    root: Path,
    reader: str | None = None,
    trust: bool = False,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Reader:
    """A file of questions.

    Args:
        run: the run folder.
        data: the file.
        root: the folder of relative media paths.
        reader: its name; default: that of the run's own data.
        trust, overrides: as of `omnivit.load`.
        options: replace those that the run's recipe has for the reader.

    Raises:
        OmniVitError: the file cannot be read, or its reader is not clear.
    """
    path = data if is_on_hub(data) else data.resolve()
    if not (run / RECIPE).is_file():  # opening the run says what is wrong with it
        return open_reader(reader or "messages", path, root, options=options)
    recipe = load_opened(run / RECIPE, overrides)
    require_trust(recipe, trust, run, readers=reader is None)
    trained = [source for stage in recipe.stages for source in stage.data]
    asked = recipe.evaluation.data if recipe.evaluation is not None else []
    name = reader or _reader_of(asked or trained, [*asked, *trained], path)
    alike = [source for source in [*asked, *trained] if source.reader == name]
    ignore = {key for source in alike for key in source.ignore}
    return open_reader(name, path, root, sorted(ignore), {**_options_of(alike, path), **options})


def _options_of(alike: Sequence[DataSource], path: Path) -> dict[str, Any]:
    """The reader's options in the run's recipe; where there are several, those of the file of the same name.

    Raises:
        DataError: files have different options, and none is called like this one.
    """
    same = [source.options for source in alike if Path(source.path).name == path.name]
    known = same[:1] or [source.options for source in alike]
    if any(options != known[0] for options in known):
        raise DataError(
            f"The data of this run are read with different `options`, and none of the files is called {path.name}. "
            "Write the file into `evaluation.data` of a recipe, with its options."
        )
    return known[0] if known else {}


def _reader_of(alike: Sequence[DataSource], known: Sequence[DataSource], path: Path) -> str:
    """The reader of the run's data; where there are several, that of the file of the same name.

    Args:
        alike: what the run was evaluated on, else what its stages were trained on.
        known: all files of the run.
        path: the file to be read.

    Raises:
        DataError: the data have several readers, and no file of the run is called like this one.
    """
    same = [source.reader for source in known if Path(source.path).name == path.name]
    names = same[:1] or list(dict.fromkeys(source.reader for source in alike)) or ["messages"]
    if len(names) > 1:
        raise DataError(
            f"The data of this run have several readers: {', '.join(names)}. Name the one for {path} with --reader."
        )
    return names[0]
