"""`omnivit generate`: answer one question about media; print only the answer, the predictions of heads and boxes."""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from omnivit.console import reserved
from omnivit.errors import DataError
from omnivit.run.trust import add_trust_argument

if TYPE_CHECKING:
    from omnivit.run.reply import Prediction, Reply

SHORTCUTS = ("image", "video", "audio")
"""Inputs that have an option; `--media SLOT=FILE` names any input."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    parser.add_argument("question", help="the question; `-` reads it from standard input")
    for slot in SHORTCUTS:
        parser.add_argument(
            f"--{slot}",
            dest="media",
            metavar="FILE",
            action="append",
            type=functools.partial(_in_slot, slot),
            help=f"{slot} to ask about; may be repeated",
        )
    parser.add_argument(
        "--media",
        metavar="SLOT=FILE",
        action="append",
        type=_slot_and_file,
        help="a file for the input SLOT of the recipe; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print the answer and its predictions as JSON")
    add_sampling_arguments(parser)


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Add the options of all verbs that open a run: `args.checkpoint`, and `args.set`, a list of overrides."""
    parser.add_argument(
        "--checkpoint", metavar="NAME", help="checkpoint to load: last (default), best, or a name in RUN/checkpoints"
    )
    add_set_argument(parser)


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--set`, for verbs that read the recipe of a run: `args.set`, a list of overrides."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change a value of the run's recipe, such as data.root=NEW after the data were moved; may be repeated",
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `generate` and `chat` share."""
    parser.add_argument(
        "--max-new-tokens", type=int, default=256, metavar="N", help="maximum length of the answer (default: 256)"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 (default) always takes the likeliest token"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="sample from the likeliest tokens, whose probabilities sum to P (default: 1)",
    )
    parser.add_argument("--seed", type=int, help="seed of the sampling, to repeat an answer")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    add_checkpoint_argument(parser)
    add_trust_argument(parser)


def typed_path(text: str) -> str:
    """The path that a person typed, pasted, or dragged into the terminal.

    Terminals put quotes around the path of a dragged file, or a backslash before its spaces; file managers copy
    `file://` addresses. A path that exists as it is typed is taken so.
    """
    if Path(text).expanduser().exists():
        return text
    if text.startswith("file://"):
        return unquote(urlsplit(text).path)
    try:
        parts = shlex.split(text)
    except ValueError:  # a quote that is not closed
        return text
    return parts[0] if len(parts) == 1 else text


def _in_slot(slot: str, file: str) -> tuple[str, str]:
    return slot, typed_path(file)


def _slot_and_file(text: str) -> tuple[str, str]:
    """Split `SLOT=FILE`."""
    slot, equals, file = text.partition("=")
    if not slot or not equals or not file:
        raise argparse.ArgumentTypeError(f"expected SLOT=FILE, got {text!r}")
    return slot, typed_path(file)


def run(args: argparse.Namespace) -> int:
    """Answer."""
    question = sys.stdin.read().strip() if args.question == "-" else args.question
    if not question.strip():
        raise DataError("The question is empty. Write a question after RUN, or pipe it in with `-`.")
    with reserved():
        reply = _reply(args, question)
    if args.json:
        predictions = [{"head": each.head, "value": each.plain()} for each in reply.predictions]
        record = {"answer": reply.text, "predictions": predictions, "boxes": reply.boxes, "points": reply.points}
        print(json.dumps(record, indent=1, ensure_ascii=False))
        return 0
    print("\n".join([reply.text, *result_lines(reply)]))
    return 0


def _reply(args: argparse.Namespace, question: str) -> Reply:
    from omnivit.run.opening import open_assistant  # `media` imports this module, and its help needs no numpy

    assistant = open_assistant(args.run, args.device, args.trust, args.checkpoint, overrides=args.set)
    from omnivit.run.assistant import Sampling

    sampling = Sampling(args.temperature, args.top_p, args.seed)
    turn = assistant.turn(question, args.media or [])
    return assistant.respond([turn], max_new_tokens=args.max_new_tokens, sampling=sampling)


def result_lines(reply: Reply) -> list[str]:
    """What an answer contains beyond text, each on one line: predictions of heads; boxes and points, in pixels."""
    lines = [prediction_line(prediction) for prediction in reply.predictions]
    for name, areas in (("boxes", reply.boxes), ("points", reply.points)):
        lines += [f"{name}: {json.dumps([[round(number, 1) for number in area] for area in areas])}"] if areas else []
    return lines


def prediction_line(prediction: Prediction) -> str:
    """A head's prediction on one line, as JSON: `box: [0.1, 0.2, 0.5, 0.9]`."""
    return f"{prediction.head}: {json.dumps(prediction.plain())}"
