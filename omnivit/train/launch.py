"""What of Lightning's handling of signals and processes is replaced."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector


class _NoHandlers(_SignalConnector):
    """Leaves signals to `omnivit.train.signals`.

    Lightning's own handlers turn SIGTERM into exit status 0 without a checkpoint, wait for the other ranks inside a
    handler, and requeue SLURM jobs from a checkpoint of Lightning's, which no resume of ours reads.
    """

    def register_signal_handlers(self) -> None:
        """None."""

    def teardown(self) -> None:
        """Nothing was registered."""


def leave_signals_alone(trainer: Trainer) -> None:
    """Keep a trainer from handling signals, and from asking the other ranks about them before each micro-batch."""
    trainer._signal_connector = _NoHandlers(trainer)
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]


def _nothing() -> None:
    """Ranks agree at the end of each step (see `omnivit.train.saving`)."""
