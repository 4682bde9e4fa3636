"""`omnivit serve`: answer questions over HTTP, as OpenAI's API does."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from omnivit.commands.generate import add_checkpoint_argument
from omnivit.run.trust import add_trust_argument
from omnivit.serve.opening import add_backend_arguments, address_of, opened_app
from omnivit.serve.settings import KEY_VARIABLE, Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    add_server_arguments(parser)


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of all verbs that start a server."""
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; others than 127.0.0.1 need an API key")
    parser.add_argument("--port", type=int, default=8000, help="port to bind; 0: any free one (default: 8000)")
    parser.add_argument("--name", help="the model's name in the API (default: the name of the run folder)")
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"key that requests must have; {KEY_VARIABLE} in the environment keeps it out of the list of processes",
    )
    parser.add_argument("--fetch", action="store_true", help="allow media as http(s) URLs of public servers")
    parser.add_argument("--media-root", type=Path, metavar="DIR", help="allow media as paths of files in this folder")
    for option, field, text in (
        ("--slots", "slots", "requests that run at the same time"),
        ("--queue", "queue", "requests that wait; more are refused with status 429"),
        ("--max-media", "max_media", "limit on the media of a request"),
    ):
        default = getattr(Settings, field)
        parser.add_argument(option, type=int, default=default, metavar="N", help=f"{text} (default: {default})")
    for option, field, text, unit in (
        ("--timeout", "timeout_s", "limit on a request's time, in seconds", "S"),
        ("--max-body-mb", "max_body_mb", "limit on a request's body, in MB", "MB"),
        ("--max-media-mb", "max_media_mb", "limit on each medium, in MB", "MB"),
    ):
        default = getattr(Settings, field)
        parser.add_argument(option, type=float, default=default, metavar=unit, help=f"{text} (default: {default})")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    add_checkpoint_argument(parser)
    add_trust_argument(parser)
    add_backend_arguments(parser)


def settings_of(args: argparse.Namespace, run: Path | None) -> Settings:
    """The settings that the options ask for.

    Raises:
        SettingsError: they are refused.
    """
    return Settings(
        name=args.name or (run.resolve().name if run else "") or "omnivit",
        api_key=args.api_key if args.api_key is not None else os.environ.get(KEY_VARIABLE),
        host=args.host,
        fetch=args.fetch,
        media_root=args.media_root,
        max_body_mb=args.max_body_mb,
        max_media=args.max_media,
        max_media_mb=args.max_media_mb,
        timeout_s=args.timeout,
        queue=args.queue,
        slots=args.slots,
        run=run,
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal stops the process."""
    settings, address = settings_of(args, args.run), address_of(args)
    from omnivit.serve.running import bound, require_libraries, serve

    require_libraries()
    with bound(settings.host, args.port) as place:  # before the model is loaded, so that a port in use is said at once
        serve(opened_app(args, settings, address), place, settings)
    return 0
