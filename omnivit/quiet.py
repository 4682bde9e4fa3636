"""Keep libraries' notices off the screen: what OmniViT prints is what the user should read."""

from __future__ import annotations

import logging
import os
import sys
import warnings


def quieten_transformers() -> None:
    """Silence notices, progress bars and questions of transformers; call it before transformers is imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # the conversion of GGUF files asks no setting of transformers
    from transformers import dynamic_module_utils
    from transformers.utils import logging as notices

    notices.set_verbosity_error()  # type: ignore[no-untyped-call]
    notices.disable_progress_bar()  # type: ignore[no-untyped-call]
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # or it asks "Do you wish to run the custom code? [y/N]"


def quieten_lightning() -> None:
    """Silence Lightning's notices, and its warnings about what the stages do on purpose."""
    import lightning.pytorch  # noqa: F401 - it sets its own level when it is imported

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",  # the number of workers is the recipe's choice
        ".*in eval mode at the start of training.*",  # what is frozen is in eval mode (Law 5)
        ".*overridden `transfer_batch_to_device` in `LightningModule`.*",
        ".*`lr_scheduler.step..` before `optimizer.step.*",  # where 16-mixed skips the first steps to find its scale
        ".*`isinstance.treespec, LeafSpec.`.*",
    ):
        warnings.filterwarnings("ignore", message=message)
