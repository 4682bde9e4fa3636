"""Codecs: how boxes and points are written as text, as six published models write them, and how they are read back.

A codec writes areas that are given in pixels of what the model sees of an image, together with its width and height. It
reads shares (0 to 1) of that width and height. An area is two numbers (x, y) or four (x0, y0, x1, y1).

`shikra`, `minigpt_v2` and `ferret` write the texts of the original code. For `qwen_vl` and `cogvlm` the public code
reads boxes only, and for `llava` there are published data only: what is read here is what was written there. Codecs
that round down (`minigpt_v2`, `ferret`) read the middle of the step, not its lower end as their evaluation scripts do,
so that no codec is off by more than half a step.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from omnivit.errors import PluginError, RecipeError, suggest
from omnivit.registry import REFERENCE

Area = tuple[float, ...]
"""(x, y) of a point, or (x0, y0, x1, y1) of a box."""

_SHARE = r"\s*([01](?:\.\d*)?|\.\d+)\s*"
_COUNT = r"\s*(\d{1,4})\s*"


@dataclass(frozen=True)
class Codec:
    """How areas are written as text and read from it."""

    write: Callable[[Sequence[Area], float, float], str]
    """Areas of one kind (at least one), width, height -> the text that stands for all of them."""
    parse: Callable[[str], list[Area]]
    """A text -> the areas in it, in reading order, in shares."""
    points: bool = True
    """Whether it has a form for points."""
    tokens: tuple[str, ...] = ()
    """Texts in it that are tokens where the recipe declares them (`llm.tokens`, or `markup` of a stage)."""


def codec_named(name: str) -> Codec:
    """The codec of a recipe: one of `CODECS`, or `module:NAME`, an object of the class `Codec`.

    Raises:
        RecipeError: there is no such codec.
        PluginError: the module cannot be imported, or contains no such codec.
    """
    if name in CODECS:
        return CODECS[name]
    match = REFERENCE.fullmatch(name)
    if match is None:
        raise RecipeError(f"there is no codec {name!r}; {suggest(name, CODECS)} Your own is written `module:NAME`.")
    try:
        value: object = importlib.import_module(match[1])
        for attribute in match[2].split("."):
            value = getattr(value, attribute)
    except Exception as error:  # of anyone's module
        raise PluginError(f"the codec {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(value, Codec):
        raise PluginError(
            f"the codec {name!r} is of type {type(value).__name__}, but a `Codec` of omnivit.data.box_codecs is "
            "expected: Codec(write, parse)."
        )
    return value


def parse_any(text: str) -> list[Area]:
    """The areas of a text that one of `CODECS` wrote: of the first that reads any."""
    return next((areas for name in _ORDER if (areas := CODECS[name].parse(text))), [])


def _shares(area: Area, width: float, height: float) -> list[float]:
    """The numbers of an area in shares, kept within 0 and 1."""
    return [min(max(number / (height if k % 2 else width), 0.0), 1.0) for k, number in enumerate(area)]


def _read(pattern: re.Pattern[str], text: str, value: Callable[[str], float]) -> list[Area]:
    """The areas that a pattern finds; a box whose corners are swapped is no box."""
    areas = [tuple(map(value, filter(None, match.groups()))) for match in pattern.finditer(text)]
    return [area for area in areas if len(area) == 2 or (area[0] <= area[2] and area[1] <= area[3])]


def _write_shikra(areas: Sequence[Area], width: float, height: float) -> str:
    """`[0.123,0.456,0.789,1.000;...]` (shikras/shikra, PlainBoxFormatter and norm_box_xyxy)."""
    texts = (",".join(f"{share:.3f}" for share in _shares(area, width, height)) for area in areas)
    return f"[{';'.join(texts)}]"


_IN_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_LISTED_SHARES = re.compile(f"{_SHARE},{_SHARE}(?:,{_SHARE},{_SHARE})?")


def _parse_shares(text: str) -> list[Area]:
    """`[x,y]` or `[x0,y0,x1,y1]` in shares, several with `;` between them."""
    items = [item for match in _IN_BRACKETS.finditer(text) for item in match[1].split(";")]
    whole = [item for item in items if _LISTED_SHARES.fullmatch(item) and "." in item]
    return [area for item in whole for area in _read(_LISTED_SHARES, item, _clamped_share)]


def _clamped_share(text: str) -> float:
    return min(float(text), 1.0)


def _write_llava(areas: Sequence[Area], width: float, height: float) -> str:
    """`[0.28, 0.34, 0.4, 0.71]`: two digits, as in llava_v1_5_mix665k.json."""
    lists = ([round(share, 2) for share in _shares(area, width, height)] for area in areas)
    return " ".join(str(numbers) for numbers in lists)


def _write_ferret(areas: Sequence[Area], width: float, height: float) -> str:
    """`[123, 456, 789, 999]` on a grid of 1000 x 1000, rounded down (apple/ml-ferret, ferret/train/train.py)."""
    x, y = 1000.0 / width, 1000.0 / height
    texts = []
    for area in areas:
        # at most width - 1 and height - 1, as `regulate_box` keeps a box of whole pixels inside its image
        kept = (max(0, min(number, (height if k % 2 else width) - 1)) for k, number in enumerate(area))
        texts.append(f"[{', '.join(str(int(number * (y if k % 2 else x))) for k, number in enumerate(kept))}]")
    return " ".join(texts)


_FERRET = re.compile(rf"\[{_COUNT},{_COUNT}(?:,{_COUNT},{_COUNT})?\]")


def _parse_ferret(text: str) -> list[Area]:
    return _read(_FERRET, text, lambda number: min((int(number) + 0.5) / 1000, 1.0))


def _write_minigpt(areas: Sequence[Area], width: float, height: float) -> str:
    """`{<12><45><78><100>}` in hundredths, rounded down (Vision-CAIR/MiniGPT-4, minigpt4/datasets/datasets)."""
    texts = []
    for area in areas:
        kept = (max(0, min(number, height if k % 2 else width)) for k, number in enumerate(area))
        hundredths = (int(number / (height if k % 2 else width) * 100) for k, number in enumerate(kept))
        texts.append("{" + "".join(f"<{number}>" for number in hundredths) + "}")
    return "<delim>".join(texts)


_MINIGPT = re.compile(rf"\{{<{_COUNT}>\s*<{_COUNT}>\s*<{_COUNT}>\s*<{_COUNT}>\}}")


def _parse_minigpt(text: str) -> list[Area]:
    return _read(_MINIGPT, text, lambda number: min((int(number) + 0.5) / 100, 1.0))


def _write_qwen(areas: Sequence[Area], width: float, height: float) -> str:
    """`<box>(123,456),(789,999)</box>`, 0 to 999 (QwenLM/Qwen-VL, README.md; eval_mm/evaluate_grounding.py)."""
    texts = []
    for area in areas:
        x0, y0, x1, y1 = (round(share * 999) for share in _shares(area, width, height))
        texts.append(f"<box>({x0},{y0}),({x1},{y1})</box>")
    return "".join(texts)


_QWEN = re.compile(rf"\({_COUNT},{_COUNT}\)\s*,\s*\({_COUNT},{_COUNT}\)")


def _parse_qwen(text: str) -> list[Area]:
    """With or without `<box>`, which a tokenizer may leave out because it is a control token."""
    return _read(_QWEN, text, lambda number: min(int(number) / 999, 1.0))


def _write_cogvlm(areas: Sequence[Area], width: float, height: float) -> str:
    """`[[086,540,400,760;...]]`, thousandths with three digits (THUDM/CogVLM, README.md; utils/grounding_parser.py)."""
    texts = (
        ",".join(f"{min(round(share * 1000), 999):03d}" for share in _shares(area, width, height)) for area in areas
    )
    return f"[[{';'.join(texts)}]]"


_COGVLM = re.compile(r"\[\[([\d,;\s]+)\]\]")
_LISTED_COUNTS = re.compile(f"{_COUNT},{_COUNT}(?:,{_COUNT},{_COUNT})?")


def _parse_cogvlm(text: str) -> list[Area]:
    items = [item for match in _COGVLM.finditer(text) for item in match[1].split(";")]
    whole = [item for item in items if _LISTED_COUNTS.fullmatch(item)]
    return [area for item in whole for area in _read(_LISTED_COUNTS, item, lambda number: min(int(number) / 1000, 1.0))]


CODECS: Mapping[str, Codec] = {
    "shikra": Codec(_write_shikra, _parse_shares),
    "qwen_vl": Codec(_write_qwen, _parse_qwen, points=False, tokens=("<box>", "</box>")),
    "minigpt_v2": Codec(_write_minigpt, _parse_minigpt, points=False),
    "cogvlm": Codec(_write_cogvlm, _parse_cogvlm),
    "ferret": Codec(_write_ferret, _parse_ferret),
    "llava": Codec(_write_llava, _parse_shares),
}
_ORDER = ("cogvlm", "shikra", "ferret", "minigpt_v2", "qwen_vl")
"""Forms that can be told apart; `[[1,2,3,4]]` first, because `ferret` would read its inner brackets."""
