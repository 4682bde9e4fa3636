"""The command line: `omnivit VERB ...`.

Each verb is a module of `omnivit.commands`, imported only when it is the one asked for, so that help is instant. This
module knows their names and nothing of what they do.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import NoReturn

from omnivit import __version__
from omnivit.errors import Interrupted, OmniVitError, OmniVitWarning, suggest
from omnivit.interrupts import sigterm_raises, stopped

VERBS = MappingProxyType(
    {
        "train": "train a recipe, or resume a run",
        "ls": "list the runs in a folder: state, step, loss and accuracy",
        "compare": "compare runs: recipes, losses, scores, and a paired test on the questions that they share",
        "check": "validate a recipe without loading weights; print its stages, trained parameters, tokens and memory",
        "show": "print a recipe with all defaults, overrides and interpolations resolved",
        "schema": "print the JSON Schema of recipes, for completion and checks in an editor",
        "plugins": "list plugins with their health; describe a plugin; test a plugin against the contract",
        "new": "create a distribution with your own plugin: encoder, adapter, LLM, reader or head",
        "generate": "answer one question about media",
        "chat": "talk with a trained model",
        "ui": "open the web page of a run, or the desk that compares the runs of a folder",
        "eval": "score a trained model on a file of samples",
        "predict": "answer all questions of a data file, or one question about every file of a folder",
        "media": "show what files contain, which inputs accept them, and how many tokens a recipe gives them",
        "data": "show what a data file contains, what a recipe trains on in it, and whether training would fail",
        "doctor": "show the installation: library versions and tested ranges, devices and their speed, plugins, disk",
        "cache": "list the contents of the cache folder with their sizes, or clear it",
        "zoo": "create small random models under the hub ids that the recipes of surveyed systems name",
        "export": "write a trained model as files that other programs load: transformers, peft, safetensors, ...",
        "serve": "answer over HTTP, as the OpenAI API does, about text and media",
        "pack": "write a run into one file to pass on: weights, recipe, provenance, report; no data",
        "import": "create a run from a LLaVA of transformers, a LoRA of peft, or an export",
        "import-hf": "the earlier name of `import`",
    }
)
"""Verb -> its line in `omnivit --help`; the module is `omnivit.commands.<verb>`, with `_` for `-`."""

EXAMPLES = MappingProxyType(
    {
        "train": "omnivit train recipes/quickstart.yaml stages.0.epochs=2 --run-dir runs/first",
        "ls": "omnivit ls runs",
        "compare": "omnivit compare runs/first runs/second",
        "check": "omnivit check recipes/quickstart.yaml --time",
        "show": "omnivit show recipes/quickstart.yaml stages.0.epochs=2",
        "plugins": "omnivit plugins info mlp",
        "new": "omnivit new encoder thermal",
        "generate": 'omnivit generate runs/first --image photo.jpg "What is it?"',
        "chat": "omnivit chat runs/first",
        "ui": "omnivit ui runs/first",
        "eval": "omnivit eval runs/first --data heldout.jsonl --out answers.jsonl",
        "predict": 'omnivit predict runs/first --data photos --question "What is it?" --out answers.jsonl',
        "media": "omnivit media photo.jpg --recipe recipes/quickstart.yaml",
        "data": "omnivit data train.jsonl --recipe recipes/quickstart.yaml",
        "doctor": "omnivit doctor",
        "cache": "omnivit cache --clear index",
        "export": "omnivit export runs/first --to hf",
        "serve": "omnivit serve runs/first --port 8000",
        "pack": "omnivit pack runs/first first.tar",
        "import": "omnivit import llava-hf/llava-1.5-7b-hf --out runs/llava",
    }
)
"""Verb -> a command that its help shows."""

DOCTOR = "doctor"
"""It prints all versions, so it does not need the warning about them."""
EXIT_DONE, EXIT_DEFECT, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 0, 1, 2, 130, 141
EXIT_SIGNAL = 128
"""The number of the signal that stopped the command is added, as shells report it."""
TRACEBACK = "OMNIVIT_TRACEBACK"
_python_format = warnings.formatwarning


def _shield() -> None:
    """Keep a damaged distribution from stopping the libraries that a command imports."""
    from omnivit.registry.shield import shield

    shield()


if "--multiprocessing-fork" in sys.orig_argv:
    _shield()  # a worker that a command started by spawn imports this module, then torch, and calls no `main`


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: done; 1: a defect, or training that stopped; 2: an error that the user can fix, or wrong usage; 130:
    interrupted; 141: the reader of standard output was closed; 143: stopped by SIGTERM.

    Args:
        argv: the arguments after `omnivit`; default: those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with sigterm_raises():
            status = _run(arguments)
            sys.stdout.flush()
    except OmniVitError as error:
        _show_traceback()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except Interrupted as stop:
        if text := str(stop):
            print(text, file=sys.stderr)
        return EXIT_SIGNAL + stop.number
    except KeyboardInterrupt:
        print(stopped(signal.SIGINT), file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return EXIT_BROKEN_PIPE
        _show_traceback()
        print(_defect(error), file=sys.stderr)
        return EXIT_DEFECT
    return status


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        parser = _general_parser()
        return _answer(parser, arguments, lambda _: _no_command(parser))
    verb = arguments[0]
    if verb not in VERBS:
        raise OmniVitError(f"omnivit has no command '{verb}': {suggest(verb, VERBS)}")
    _shield()
    warnings.formatwarning = _format_warning
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Level())
    command = importlib.import_module(f"omnivit.commands.{verb.replace('-', '_')}")
    parser = _Parser(prog=f"omnivit {verb}", description=VERBS[verb])
    command.add_arguments(parser)
    if verb in EXAMPLES and parser.epilog is None:
        parser.epilog = f"Example: {EXAMPLES[verb]}"
    return _answer(parser, arguments[1:], command.run if verb == DOCTOR else _with_tested_versions(command.run))


def _with_tested_versions(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Warn before the command if a library is older or newer than tested, but not before help or wrong usage."""

    def warned(parsed: argparse.Namespace) -> int:
        from omnivit.registry.versions import warn_once

        warn_once()
        return run(parsed)

    return warned


class _Parser(argparse.ArgumentParser):
    """A parser that suggests the nearest option for an unknown one."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with status 2."""
        _, marker, rest = message.partition("unrecognized arguments: ")
        unknown = next((word.partition("=")[0] for word in rest.split() if word.startswith("-")), "")
        if marker and unknown:
            options = [option for option in self._option_string_actions if option.startswith("--")]
            message = f"there is no option {unknown}: {suggest(unknown, options)}"
        super().error(message)


def _answer(parser: argparse.ArgumentParser, arguments: Sequence[str], run: Callable[[argparse.Namespace], int]) -> int:
    """Parse and run. Options may stand between positionals: `omnivit train RECIPE --run-dir DIR key=value`."""
    try:
        parsed = parser.parse_intermixed_args(arguments)
    except SystemExit as request:  # argparse has printed help, the version or what is wrong
        return request.code if isinstance(request.code, int) else EXIT_DONE
    return run(parsed)


def _general_parser() -> argparse.ArgumentParser:
    """The parser of `omnivit` without a command; its help lists the commands."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {line}" for verb, line in VERBS.items()]
    parser = argparse.ArgumentParser(
        prog="omnivit",
        usage="omnivit [-h] [--version] COMMAND ...",
        description="Any encoder as an eye, an ear or a hand of a shared large language model.",
        epilog="\n".join(["commands:", *lines, "", "`omnivit COMMAND --help` describes a command and its options."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"omnivit {__version__}")
    return parser


def _no_command(parser: argparse.ArgumentParser) -> int:
    parser.print_help(sys.stderr)
    return EXIT_ERROR


def _reader_is_gone() -> bool:
    """Whether standard output is the pipe that broke; if so, it is silenced, since Python flushes it again at exit.

    Another pipe (to a loader worker, say) that breaks is a defect and must be heard.
    """
    try:
        output = sys.stdout.fileno()
    except OSError:  # replaced by an object in memory
        return False
    poll = select.poll()
    poll.register(output, 0)  # no event is asked for: only error and hang-up are reported
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """OmniViT's own warnings are for users: they are printed without the line of code that Python adds."""
    if issubclass(category, OmniVitWarning):
        return f"warning: {message}\n"
    return _python_format(message, category, filename, lineno, line)


class _Level(logging.Formatter):
    """Puts `warning: ` or `error: ` before what is logged."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


def _show_traceback() -> None:
    if os.environ.get(TRACEBACK):
        traceback.print_exc()


def _defect(error: Exception) -> str:
    return (
        f"error: {type(error).__name__}: {error}\n"
        "This is a defect of OmniViT or of a plugin, not a mistake of yours. Please report it with the command and its "
        f"traceback; run the command again with {TRACEBACK}=1 to see the traceback."
    )


if __name__ == "__main__":
    sys.exit(main())
