"""Boxes and points of a sample -> text, and text of an answer -> boxes and points in pixels of the image.

The only place that knows both the codec (`omnivit.data.box_codecs`) and what the model sees of an image
(`omnivit.contracts.fit`). Afterwards a sample contains text in their place, so nothing else in the pipeline knows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from omnivit.contracts.fit import Fit
from omnivit.contracts.sample import Boxes, Message, Part, Points, Sample, Text, Token
from omnivit.data.box_codecs import Area, Codec, codec_named
from omnivit.errors import DataError

TOLERANCE = 1.0
"""Pixels of the source by which a coordinate may be outside without an error: annotations count them from 0 or 1."""


@dataclass(frozen=True)
class BoxWriter:
    """The codec of a model, and what to do with boxes that the model does not see completely; picklable by name."""

    name: str
    """Of the codec, as in the recipe."""
    outside: Literal["error", "clamp"] = "error"

    @property
    def codec(self) -> Codec:
        return codec_named(self.name)

    def text(self, part: Boxes | Points, fit: Fit) -> str:
        """The text of a part.

        Raises:
            DataError: an area is outside of what the model sees, or the codec has no form for points.
        """
        codec = self.codec
        if isinstance(part, Points) and not codec.points:
            raise DataError(
                f"the codec {self.name!r} (`model.boxes`) has no form for points. Give boxes, or use another."
            )
        areas: Sequence[Area] = part.boxes if isinstance(part, Boxes) else part.points
        height, width = fit.source
        pixels = areas if part.unit == "pixel" else [_scaled(area, width, height) for area in areas]
        left, top, right, bottom = fit.view
        seen = [self._inside(_upright(_moved(area, fit)), area, fit) for area in pixels]
        return codec.write(seen, abs(right - left), abs(bottom - top))

    def read(self, text: str, fit: Fit) -> list[Area]:
        """The areas that a text names, in pixels of the source image; boxes are kept inside of it."""
        height, width = fit.source
        corners = ([fit.pixel(*area[k : k + 2]) for k in range(0, len(area), 2)] for area in self.codec.parse(text))
        inside = (tuple((min(max(x, 0.0), width), min(max(y, 0.0), height)) for x, y in points) for points in corners)
        return [_upright(tuple(number for point in points for number in point)) for points in inside]

    def _inside(self, area: Area, source: Area, fit: Fit) -> Area:
        """An area of what the model sees, kept inside of it where the recipe allows that."""
        left, top, right, bottom = fit.view
        sides = abs(right - left), abs(bottom - top)
        over = [max(-number, number - sides[k % 2]) for k, number in enumerate(area)]
        if max(over) <= 0:
            return area
        gone = len(area) == 2 or area[0] >= sides[0] or area[1] >= sides[1] or area[2] <= 0 or area[3] <= 0
        if max(over) > TOLERANCE and (gone or self.outside == "error"):
            raise DataError(_outside(source, fit, gone))
        return tuple(min(max(number, 0), sides[k % 2]) for k, number in enumerate(area))


def write_areas(
    sample: Sample, writer: BoxWriter | None, fit_of: Callable[[int], Fit], declared: Collection[str] = ()
) -> Sample:
    """A sample with text in place of its boxes and points; the same object where it has none.

    Args:
        sample: any.
        writer: of the recipe; None: it has no `model.boxes`.
        fit_of: number of a medium of the sample -> its fit. Raises DataError if it has none.
        declared: tokens that data may write; those of the codec become parts of their own.

    Raises:
        DataError: an area cannot be written; says which.
    """
    if not any(isinstance(part, Boxes | Points) for turn in sample.messages for part in turn.parts):
        return sample
    if writer is None:
        raise DataError(
            "the sample contains boxes or points, but the recipe does not say how they are written. Set "
            "`model.boxes: {codec: NAME}`."
        )
    media = sum(1 for _ in sample.media())
    tokens = [token for token in writer.codec.tokens if token in declared]

    def written(part: Boxes | Points) -> list[Text | Token]:
        kind = "boxes" if isinstance(part, Boxes) else "points"
        if part.of >= media:
            raise DataError(f"{kind} are in medium {part.of}, but the sample has {media} media, counted from 0.")
        try:
            return _with_tokens(writer.text(part, fit_of(part.of)), tokens)
        except DataError as error:
            raise type(error)(f"{kind} in medium {part.of}: {error}") from error

    return replace(sample, messages=tuple(_with_text(turn, written) for turn in sample.messages))


def _with_text(turn: Message, written: Callable[[Boxes | Points], list[Text | Token]]) -> Message:
    """A turn with text in place of areas, joined with the text around it: a tokenizer sees one text."""
    if not any(isinstance(part, Boxes | Points) for part in turn.parts):
        return turn
    parts: list[Part] = []
    for part in turn.parts:
        for piece in written(part) if isinstance(part, Boxes | Points) else [part]:
            if isinstance(piece, Text) and parts and isinstance(parts[-1], Text):
                parts[-1] = Text(parts[-1].text + piece.text)
            else:
                parts.append(piece)
    return replace(turn, parts=tuple(parts))


def _with_tokens(text: str, tokens: Sequence[str]) -> list[Text | Token]:
    """A text with its tokens as parts."""
    if not tokens:
        return [Text(text)]
    pieces = re.split(f"({'|'.join(map(re.escape, tokens))})", text)
    return [Token(piece) if piece in tokens else Text(piece) for piece in pieces if piece]


def _scaled(area: Area, width: int, height: int) -> Area:
    """Shares of the source image -> its pixels."""
    return tuple(number * (height if k % 2 else width) for k, number in enumerate(area))


def _moved(area: Area, fit: Fit) -> Area:
    """Pixels of the source -> pixels from the corner of what the model sees."""
    left, top, right, _ = fit.view
    return tuple(
        number - top if k % 2 else (left - number if left > right else number - left) for k, number in enumerate(area)
    )


def _upright(area: Area) -> Area:
    """A box with its corners in order; they are swapped where the image was mirrored."""
    if len(area) == 2 or area[0] <= area[2]:
        return area
    return area[2], area[1], area[0], area[3]


def _outside(area: Area, fit: Fit, gone: bool) -> str:
    left, top, right, bottom = fit.view
    place = f"x {min(left, right):.4g} to {max(left, right):.4g}, y {top:.4g} to {bottom:.4g}"
    numbers = ", ".join(f"{number:.6g}" for number in area)
    remedy = "" if gone else ", or cut boxes at the edge with `model.boxes.outside: clamp`"
    return (
        f"[{numbers}] is {'' if gone else 'partly '}outside of what the model sees of the image, which is {place} of "
        f"its {fit.source[1]} x {fit.source[0]} pixels. Use an encoder with `fit: pad` or `fit: squash`{remedy}."
    )
