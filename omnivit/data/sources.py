"""The data that a recipe names, opened: a source with its reader, several as one mixture, those of all stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omnivit.contracts.reader import Reader
from omnivit.data.mixture import Mixture, size_of, weights_of
from omnivit.data.opening import open_reader
from omnivit.data.prompted import PromptedReader
from omnivit.data.wording import bank_of
from omnivit.errors import DataError, RecipeError
from omnivit.recipe import Data, DataSource, Recipe
from omnivit.recipe.convert import Where


def skips_allowed(data: Data, samples: int) -> int:
    """How many of a number of different samples may be bad. At least one, unless the budget is 0: a fraction of a
    small set would allow none."""
    return max(1, int(data.skip_budget * samples)) if data.skip_budget else 0


def open_stages(recipe: Recipe) -> dict[str, Mixture]:
    """Every stage's data, by name; what a stage validates on is tried too, so that a later stage finds it.

    Raises:
        DataError, PluginError: a file is missing or outside the root, or there is no such reader.
    """
    mixtures = {}
    for number, stage in enumerate(recipe.stages):
        where = recipe.where(f"stages[{number}]")
        if stage.validation is not None:
            open_mixture(stage.validation.data, recipe.data.root, where / "validation" / "data")
        mixtures[stage.name] = open_mixture(stage.data, recipe.data.root, where / "data")
    return mixtures


def open_source(source: DataSource, root: str | Path, where: Where | None = None) -> Reader:
    """Open one data source with its reader.

    Args:
        source: what the recipe says of it.
        root: `data.root`.
        where: its place in the recipe, for errors.

    Raises:
        DataError: the file is missing or outside the root.
        PluginError: no such reader.
        RecipeError: the reader has no such option, or the prompts cannot be read.
    """
    base = Path(root)
    if not base.is_dir():
        place = Where(("data", "root"), where.places if where is not None else {})
        raise DataError(
            f"{place}: there is no folder {base.absolute()}. If the data were moved, name their new folder: "
            "`data.root=NEW` after a recipe, `--set data.root=NEW` for a run."
        )
    media_root = (base / (source.media_root or ".")).resolve()
    on_hub = source.path.startswith("hf://")
    path = Path(source.path) if on_hub else (base / source.path).resolve()
    for what, resolved in (("path", media_root if on_hub else path), ("media_root", media_root)):
        if not resolved.is_relative_to(base.resolve()):
            raise DataError(
                f"{what} {resolved} of a data source is outside `data.root` {base.resolve()}. Move it inside, or set "
                "`data.root` to a folder that contains it."
            )
    place = where or Where.of("data")
    reader = open_reader(source.reader, path, media_root, source.ignore, source.options, place / "options")
    if source.prompts is None:
        return reader
    return PromptedReader(path, media_root, reader, bank_of(source.prompts, base, place / "prompts"))


def open_mixture(sources: Sequence[DataSource], root: str | Path, where: Where | None = None) -> Mixture:
    """Open several data sources as one weighted mixture; `where` is the place of their list in the recipe.

    Raises:
        DataError, PluginError: a source cannot be opened.
        RecipeError: only some sources have a `ratio`, or one has a `weight` too.
    """
    place = where or Where(("data",))
    ratios = _ratios(sources, place)
    readers = [open_source(source, root, place / number) for number, source in enumerate(sources)]
    limits = [source.limit for source in sources]
    if ratios is None:
        return Mixture(readers, [source.weight for source in sources], limits)
    sizes = list(map(size_of, readers, limits))
    return Mixture(readers, weights_of(ratios, sizes), limits)


def _ratios(sources: Sequence[DataSource], place: Where) -> list[float] | None:
    """The ratios of all sources; None where they have weights."""
    ratios = [source.ratio for source in sources if source.ratio is not None]
    if not ratios:
        return None
    for number, source in enumerate(sources):
        if source.ratio is None:
            raise RecipeError(
                f"{place / number}: `ratio` is missing, which other files of this list have. Set it for all files, or "
                "use `weight`."
            )
        if source.weight != 1:
            raise RecipeError(f"{place / number / 'weight'}: a file has a `weight` or a `ratio`. Remove one of them.")
    return ratios
