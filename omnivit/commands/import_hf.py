"""`omnivit import-hf`: create a run from a Hugging Face LLaVA checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("path", metavar="PATH", type=Path, help="folder of a LlavaForConditionalGeneration checkpoint")
    parser.add_argument("--out", metavar="RUN", type=Path, required=True, help="run folder to create")
    parser.add_argument("--template", help="chat template, if the checkpoint has none: vicuna_v1, chatml, ...")


def run(args: argparse.Namespace) -> int:
    """Import."""
    from omnivit.console import quieten_transformers

    quieten_transformers()
    from omnivit.run.import_hf import import_llava

    import_llava(args.path, args.out, args.template)
    print(f'{args.out} is ready: omnivit generate {args.out} --image FILE "What is in the image?"')
    return 0
