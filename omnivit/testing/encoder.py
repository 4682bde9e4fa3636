"""The contract of encoders, rule by rule, for pytest and for `omnivit plugins check`.

    class TestThermal(EncoderContract):
        encoder = ThermalEncoder

The rules are in the base classes: for every plugin, for the processor, for the tokens, for the weights; those for media
that cannot be used are here. Each builds the encoder of `ThermalEncoder.example` again.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from omnivit.contracts.encoder import Encoder
from omnivit.contracts.media import MediaFacts
from omnivit.errors import MediaError
from omnivit.testing.bad_media import Bad, bad_media
from omnivit.testing.encoder_processor import check_item
from omnivit.testing.encoder_weights import WeightRules
from omnivit.testing.plugin import example_of, fresh
from omnivit.testing.rules import Broken, NotApplicable, rule


class EncoderContract(WeightRules):
    """All rules for encoders."""

    kind = "encoder"
    encoder: ClassVar[type[Encoder]]
    """The encoder that is tried."""

    @rule(needs=("items",))
    def test_bad_media(self, tmp_path: Path) -> None:
        """A file that cannot be read raises a MediaError that names it; any other exception would end the run."""
        trial = self.trial(fresh(tmp_path))
        for media in trial.slots.values():
            for bad in bad_media(media, fresh(tmp_path)):
                try:
                    item = trial.processor(bad.media)
                except MediaError as error:
                    _check_named(error, bad)
                except Exception as error:
                    raise _wrong_exception(error, bad) from error
                else:
                    _check_accepted(bad, "an item of tensors")
                    check_item(item, bad.what)

    @rule
    def test_inspect(self, tmp_path: Path) -> None:
        """`inspect` describes media, or raises MediaError; it accepts none that the processor must refuse."""
        plugin: type[Encoder] = self.plugin()
        if plugin.inspect.__func__ is Encoder.inspect.__func__:  # type: ignore[attr-defined]
            raise NotApplicable("it has no `inspect`, which `omnivit media` reports.")
        example = example_of(plugin, fresh(tmp_path)).media
        told = [_facts(plugin, Bad("a medium of the example", media, certain=False)) for media in example]
        if not any(told):
            raise Broken("it refuses all media of the example.", "Return what they contain, or remove `inspect`.")
        for slot in {media.slot for media in example}:
            media = [one for one in example if one.slot == slot]
            for bad in bad_media(media, fresh(tmp_path)):
                if _facts(plugin, bad) is not None:
                    _check_accepted(bad, "facts")


def _facts(plugin: type[Encoder], bad: Bad) -> MediaFacts | None:
    """What `inspect` returns; None if it refuses the medium."""
    try:
        facts: object = plugin.inspect(bad.media)
    except MediaError as error:
        _check_named(error, bad)
        return None
    except Exception as error:
        raise _wrong_exception(error, bad) from error
    if not isinstance(facts, MediaFacts) or not facts.kind:
        raise Broken(f"for {bad.what} it returns {facts!r}.", "Return `MediaFacts('image', {'height': 3, ...})`.")
    odd = [name for name, size in facts.shape.items() if type(size) is not int or size < 0]
    if odd:
        raise Broken(f"for {bad.what} its message is that `{odd[0]}` is {facts.shape[odd[0]]!r}.", "Give sizes as int.")
    return facts


def _check_named(error: MediaError, bad: Bad) -> None:
    if bad.name not in str(error):
        raise Broken(
            f"the MediaError for {bad.what} does not name {str(bad.media)!r}: {error}",
            "Raise `MediaError(f'{media}: what is wrong. What to do.')`.",
        )


def _check_accepted(bad: Bad, what: str) -> None:
    if bad.certain:
        raise Broken(
            f"{bad.what} ({bad.media}) becomes {what}.",
            "Read files by `omnivit.media.locate.resolve`, which refuses these, and raise MediaError for the rest.",
        )


def _wrong_exception(error: Exception, bad: Bad) -> Broken:
    return Broken(
        f"{bad.what} ({bad.media}) raises {type(error).__name__}: {error}",
        "Raise `MediaError(f'{media}: what is wrong. What to do.')` from it.",
    )
