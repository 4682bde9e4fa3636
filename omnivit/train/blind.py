"""Whether the inputs that a stage trains ever see a medium: an adapter without one learns nothing, in silence.

A stage of text alone that trains the LLM alone is fine. The index only guesses how many media a record has, so records
are read: `LOOKED_AT` of those that seem to have some, then as many of the others.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from torch import nn

from omnivit.data.lengths import Lengths
from omnivit.data.mixture import Mixture
from omnivit.errors import DataError, RecipeError
from omnivit.model.omni import OmniModel
from omnivit.recipe import Stage

log = logging.getLogger(__name__)

LOOKED_AT = 256
"""Records that are read, of each kind."""


def check_inputs_are_fed(stage: Stage, model: OmniModel, trained: Collection[str], mixture: Mixture) -> None:
    """Refuse a stage that trains inputs of which no record has a medium; warn where some others have.

    Args:
        stage: whose data is looked at.
        model: with its names and parameters, if only on the meta device.
        trained: names of the parameters that train.
        mixture: the stage's data.

    Raises:
        RecipeError: all records were read, and none has a medium for any input that trains.
        DataError: no record that was read can be used; says why of the first.
    """
    slots = _trained_slots(model, trained)
    if not slots:
        return
    seen, read = _slots_of(mixture, slots)
    fed = {name for slot in seen for name in slots.get(slot, ())}
    unfed = {slot: own[0] for slot, names in slots.items() if (own := [name for name in names if name not in fed])}
    if not unfed:
        return
    everything = read == len(mixture)
    of_them = f"all {read} records were read" if everything else f"{read} of {len(mixture)} records were read"
    names = ", ".join(f"input {slot!r} ({name}, ...)" for slot, name in unfed.items())
    kinds = f"They contain media for {', '.join(sorted(seen))}." if seen else "They contain no media."
    message = (
        f"stages.{stage.name}: the stage trains {names}, but no record contains a medium for it, so it would learn "
        f"nothing ({of_them}). {kinds} Check that `data.reader` fits the file and that the parts of its messages use "
        f"the names of the recipe's inputs, or remove the input from `train`."
    )
    if everything and not fed:
        raise RecipeError(message)
    log.warning("%s", message)


def _trained_slots(model: OmniModel, trained: Collection[str]) -> dict[str, list[str]]:
    """Slot -> its parameters that train. A shared module is a part of every slot that it serves."""
    names: Mapping[int, str] = {id(p): name for name, p in model.named_parameters() if name in trained}
    trained_slots = {}
    for slot in model.encoders:
        parts: list[nn.Module] = [part for branch in model.branches(slot) for part in branch]
        own = [names[id(p)] for part in parts for p in part.parameters() if id(p) in names]
        if own:
            trained_slots[slot] = own
    return trained_slots


def _slots_of(mixture: Mixture, slots: Collection[str]) -> tuple[set[str], int]:
    """Slots that media of the records belong to, and how many records were read to know.

    Raises:
        DataError: none of them can be used.
    """
    seen: set[str] = set()
    read = 0
    faults: list[DataError] = []
    for likely in Lengths(mixture).spread(LOOKED_AT):  # the count is a guess: read both kinds
        for index in likely:
            read += 1
            try:
                seen |= {media.slot for media in mixture[index].media()}
            except DataError as error:
                faults.append(error)  # training decides what becomes of a bad record
                continue
            if seen >= set(slots):
                return seen, read
    if faults and len(faults) == read:  # the reader does not fit the file: what it says helps more than what is missing
        raise faults[0]
    return seen, read
