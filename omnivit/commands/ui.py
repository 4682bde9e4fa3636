"""`omnivit ui`: the web page of a run, or the desk that compares the runs of a folder."""

from __future__ import annotations

import argparse
import socket
import threading
import webbrowser
from pathlib import Path

from omnivit.commands.serve import add_server_arguments, settings_of
from omnivit.errors import OmniVitError
from omnivit.serve.opening import address_of, opened_app


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN|FOLDER",
        type=Path,
        default=Path("runs"),
        help="a run folder: talk with its model; another folder (default: runs): compare the runs in it",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    add_server_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page, and open it, until a signal stops the process."""
    from omnivit.run.folder import RECIPE

    if not args.run.is_dir():
        raise OmniVitError(f"There is no folder {args.run}. Give a run folder, or a folder that contains runs.")
    is_run = (args.run / RECIPE).is_file()
    settings, address = settings_of(args, args.run if is_run else None), address_of(args)
    if not is_run:
        _refuse_options_of_a_model(args)
    from omnivit.serve.running import bound, require_libraries, serve

    require_libraries()
    with bound(settings.host, args.port) as place:
        if is_run:
            app = opened_app(args, settings, address)
        else:
            from omnivit.serve.desk.app import create_desk

            app = create_desk(args.run, settings)
        if not args.no_browser:
            open_browser(place)
        serve(app, place, settings)
    return 0


def _refuse_options_of_a_model(args: argparse.Namespace) -> None:
    """Raises OmniVitError where a folder of runs is given options that only the model of a run can follow."""
    options = {
        "--backend vllm": args.backend == "vllm",
        "--checkpoint": args.checkpoint is not None,
        "--device": args.device is not None,
        "--set": args.set,
    }
    given = [option for option, is_given in options.items() if is_given]
    if given:
        verb = "needs" if len(given) == 1 else "need"
        raise OmniVitError(
            f"{' and '.join(given)} {verb} the model of a run, but {args.run} is not a run folder. Give one."
        )


def open_browser(place: socket.socket) -> None:
    """Open the page of a server that listens at a socket; a browser in the terminal does not hold the server up."""
    host, port = place.getsockname()[:2]
    name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    threading.Thread(target=webbrowser.open, args=(f"http://{name}:{port}/",), daemon=True).start()
