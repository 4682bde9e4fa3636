"""`omnivit eval`: score a trained model on a file of samples."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from omnivit.commands.generate import add_checkpoint_argument
from omnivit.console import reserved
from omnivit.data.containers.dataset import is_on_hub
from omnivit.data.opening import open_reader
from omnivit.errors import DataError
from omnivit.interrupts import explained
from omnivit.run.opening import open_assistant
from omnivit.run.trust import add_trust_argument
from omnivit.run.trust import require as require_trust

if TYPE_CHECKING:
    from omnivit.contracts.reader import Reader
    from omnivit.evaluate.score import Answered, Score
    from omnivit.recipe import DataSource

ACCURACY, EXACT_MATCH = "accuracy", "exact_match"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a trained run")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="file of samples with the reference answers"
    )
    parser.add_argument(
        "--reader", help="reader of the file (default: that of the data of the run; auto: chosen by the first record)"
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of relative media paths (default: the folder of FILE)"
    )
    control = parser.add_mutually_exclusive_group()
    control.add_argument("--blind", action="store_true", help="ask without media")
    control.add_argument("--shuffle", action="store_true", help="ask with the media of another sample instead")
    parser.add_argument("--limit", type=positive, metavar="N", help="ask only the first N samples")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="default: 16")
    parser.add_argument("--max-new-tokens", type=positive, default=32, metavar="N", help="default: 32")
    parser.add_argument(
        "--choices",
        choices=("generate", "likelihood"),
        help="write answers, or choose the most probable candidate (default: as the run's recipe, else generate)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all answers to this file, as JSON lines")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    add_checkpoint_argument(parser)
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Ask all questions of the file, and print exact match and token F1 with 95% intervals.

    Where the run's recipe names another `evaluation.metric`, that is printed too.
    """
    with reserved(), explained(lambda: "There are no scores yet. Start again with the same command."):
        condition, scores = _measure(args)
    print(json.dumps(summary(condition, scores), indent=1) if args.json else "\n".join(table(condition, scores)))
    return 0


def _measure(args: argparse.Namespace) -> tuple[str, Score]:
    """Ask; gives the condition and what was measured under it."""
    if args.out is not None:
        check_writable(args.out)
        if args.out.resolve() == args.data.resolve():
            raise DataError(f"--out {args.out} is the file of --data, which would be overwritten. Choose another file.")
    root = (args.root or args.data.parent).resolve()
    if not root.is_dir():
        raise DataError(f"--root {root} is not a folder.")
    reader = open_questions(args, root)
    assistant = open_assistant(args.run, args.device, args.trust, args.checkpoint, overrides=args.set)
    from omnivit.evaluate.heads import head_losses
    from omnivit.evaluate.run import ask, gather
    from omnivit.evaluate.score import metric_named, score

    evaluation = assistant.recipe.evaluation
    metric = evaluation.metric if evaluation else ACCURACY
    choices = args.choices or (evaluation.choices if evaluation else "generate")
    metric_named(metric)  # one that is missing is an error before the questions are asked, not after
    questions = gather(reader, args.limit, assistant)
    condition = "none" if args.blind else "shuffled" if args.shuffle else "true"
    answered = ask(assistant, questions.samples, condition, args.max_new_tokens, args.batch_size, choices)
    if args.out is not None:
        from omnivit.files import write_text

        records = (as_record(each, metric) for each in answered)
        write_text(args.out, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    asked = [each.sample for each in answered]
    heads = head_losses(assistant.model, assistant.preparer, asked, questions.samples, args.batch_size)
    return condition, replace(score(answered, questions.refused, metric), heads=heads, choices=choices)


def check_writable(out: Path) -> None:
    """Refuse a file that cannot be written before questions are asked, whose answers would be lost.

    Raises:
        DataError: says why.
    """
    folder = out.absolute().parent
    if not folder.is_dir():
        raise DataError(f"--out {out}: the folder {folder} does not exist. Create it first.")
    if out.is_dir():
        raise DataError(f"--out {out} is a folder. Name a file.")
    if out.exists() and not os.access(out, os.W_OK):
        raise DataError(f"--out {out} cannot be written to: its permissions forbid it. Choose another file.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"--out {out}: its folder cannot be written to: {error.strerror}. Choose another file."
        ) from error


def open_questions(args: argparse.Namespace, root: Path, options: Mapping[str, Any] = MappingProxyType({})) -> Reader:
    """The file, opened as `--reader` says, or as the run's own data were; `options` replace those of the reader."""
    from omnivit.run.folder import RECIPE
    from omnivit.run.overrides import load_opened

    path = args.data if is_on_hub(args.data) else args.data.resolve()
    if not (args.run / RECIPE).is_file():  # opening the run says what is wrong with it
        return open_reader(args.reader or "messages", path, root, options=options)
    recipe = load_opened(args.run / RECIPE, args.set)
    require_trust(recipe, args.trust, args.run, readers=args.reader is None)
    trained = [source for stage in recipe.stages for source in stage.data]
    asked = recipe.evaluation.data if recipe.evaluation is not None else []
    name = args.reader or _reader_of(asked or trained, [*asked, *trained], path)
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


def as_record(answered: Answered, metric: str) -> dict[str, Any]:
    """One line of `--out`."""
    from omnivit.evaluate.score import ALWAYS, metric_named

    prediction, reference = answered.prediction, answered.reference
    record: dict[str, Any] = {
        "id": answered.sample.id,
        "origin": answered.sample.origin,
        "question": answered.sample.messages[-1].text,
        "media": [str(media) for media in answered.sample.media()],
        "reference": reference,
        "prediction": prediction,
    }
    for name in dict.fromkeys((*ALWAYS, metric)):
        if (single := metric_named(name).answer(prediction, reference)) is not None:
            record[_key(name)] = single
    return record


def summary(condition: str, score: Score) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "condition": condition,
        **{_key(name): asdict(interval) for name, interval in score.metrics.items()},
        **({"heads": {name: asdict(loss) for name, loss in score.heads.items()}} if score.heads else {}),
        "refused": list(score.refused),
        **({"choices": score.choices} if score.choices == "likelihood" else {}),
    }


def table(condition: str, score: Score) -> Sequence[str]:
    """What is printed for people."""
    from omnivit.run.scores import LABELS

    chosen = ", answered by the most probable candidate" if score.choices == "likelihood" else ""
    lines = [f"{score.accuracy.n} questions, asked with {LABELS[condition]}{chosen}"]
    measured = {_label(name): interval for name, interval in score.metrics.items()} | dict(score.heads)
    width = max(map(len, [EXACT_MATCH, *(_label(name) for name in score.metrics)]))
    for label, interval in measured.items():
        bounds = f"95% interval {interval.low:.3f} to {interval.high:.3f}"
        lines.append(f"{label:<{width + 1}} {interval.mean:.3f}   {bounds}")
    return lines + [f"left out: {' '.join(reason.split())}" for reason in score.refused]


def _key(name: str) -> str:
    """The key of a metric in JSON. The accuracy is `exact_match` there, and programs rely on that."""
    return EXACT_MATCH if name == ACCURACY else name


def _label(name: str) -> str:
    from omnivit.evaluate.score import metric_named

    return EXACT_MATCH.replace("_", " ") if name == ACCURACY else metric_named(name).label


def positive(text: str) -> int:
    """The type of options that are numbers of things."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
