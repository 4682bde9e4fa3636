"""What the verbs that serve a run do before: find the engine, open the run, make the app."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from omnivit.run.opening import open_assistant
from omnivit.serve.settings import Settings, SettingsError
from omnivit.serve.vllm.address import BACKEND_KEY_VARIABLE, Address
from omnivit.serve.vllm.opening import Backend

if TYPE_CHECKING:
    from fastapi import FastAPI

BACKENDS = ("own", "vllm")
"""What computes the answers, as `--backend` takes it."""


def add_backend_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose what runs the LLM."""
    group = parser.add_argument_group("another server for the LLM")
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default=BACKENDS[0],
        help="what runs the LLM: this process (own, the default), or a server of vLLM at --url",
    )
    group.add_argument("--url", help="of vLLM, such as http://127.0.0.1:8001, started with --enable-prompt-embeds")
    group.add_argument("--backend-model", metavar="NAME", help="the model's name there (default: the only one)")
    group.add_argument(
        "--backend-key",
        metavar="KEY",
        help=f"vLLM's API key; {BACKEND_KEY_VARIABLE} in the environment keeps it out of the list of processes",
    )


def address_of(args: argparse.Namespace) -> Address | None:
    """Where vLLM is; None where this process runs the LLM.

    Raises:
        SettingsError: the options contradict each other, or the URL is none.
    """
    if args.backend == "vllm":
        if not args.url:
            raise SettingsError("--backend vllm needs --url, such as --url http://127.0.0.1:8001.")
        key = args.backend_key if args.backend_key is not None else os.environ.get(BACKEND_KEY_VARIABLE)
        return Address(args.url, key, args.backend_model)
    for option in ("url", "backend_key", "backend_model"):
        if getattr(args, option) is not None:
            raise SettingsError(f"--{option.replace('_', '-')} needs --backend vllm.")
    return None


def opened_app(args: argparse.Namespace, settings: Settings, address: Address | None) -> FastAPI:
    """The app of a run.

    Raises:
        OmniVitError: the run cannot be opened, or vLLM does not serve it.
    """
    backend = None if address is None else Backend(address)  # before the model is loaded, which takes longer
    assistant = open_assistant(args.run, args.device, args.trust, args.checkpoint, True, args.set)
    engine = None if backend is None else backend.engine(assistant, settings)
    from omnivit.serve.app import create_app

    return create_app(assistant, settings, engine)
