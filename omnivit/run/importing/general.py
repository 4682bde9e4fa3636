"""Folders of `export --to hf` that load by OmniViT's own class -> runs.

The folder has every tensor of the model, so the run needs no pretrained weights, nor does it read those that its recipe
names.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from omnivit.files import appearing
from omnivit.model.filled import all_tensors
from omnivit.run.export.general import PARTS, TOKENIZER
from omnivit.run.export.reading import open_folder
from omnivit.run.folder import RECIPE
from omnivit.run.importing import Request
from omnivit.run.importing.imported import save_imported
from omnivit.run.provenance import PROVENANCE


def import_run(source: Path, run: Path, request: Request) -> None:
    """Create a run from a folder.

    Raises:
        OmniVitError: the folder is damaged, needs a plugin that is not installed, or names code that is not trusted.
    """
    assistant = open_folder(source, request.trust)
    with appearing(run) as partial:
        shutil.copyfile(source / RECIPE, partial / RECIPE)
        for name in (TOKENIZER, PARTS):
            if (source / name).is_dir():
                shutil.copytree(source / name, partial / name)
        if (source / PROVENANCE).is_file():
            shutil.copyfile(source / PROVENANCE, partial / PROVENANCE)
        save_imported(partial, all_tensors(assistant.model), assistant.recipe, complete=True)
