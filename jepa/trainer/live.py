"""The runs that train in this process right now: two of them must not share a model or a run folder."""

from __future__ import annotations

import atexit
import logging
import warnings
import weakref
from typing import TYPE_CHECKING

from jepa.trainer.control import Stop

if TYPE_CHECKING:
    from jepa.trainer.trainer import JEPATrainer

logger = logging.getLogger(__name__)

LIVE_TRAINERS: weakref.WeakSet[JEPATrainer] = weakref.WeakSet()
EXIT_SECONDS = PATIENCE_SECONDS = 60.0  # to end with a checkpoint


@atexit.register
def _stop_all() -> None:
    """End what still trains in a thread when its process ends, with checkpoints."""
    trainers = list(LIVE_TRAINERS)
    for trainer in trainers:
        trainer.control.submit(Stop(), source="exit")
    for trainer in trainers:
        if not trainer.ended.wait(EXIT_SECONDS):
            logger.warning("the process ends although its run is still %s at step %d", trainer.state, trainer.step)


def take_over(trainer: JEPATrainer, timeout: float = PATIENCE_SECONDS, *, at_start: bool = False) -> None:
    """Stop, with a checkpoint, a live run of this process that trains the same model or writes the same folder.

    Other live runs are left alone; unless `at_start`, when it was said before, a warning says that they share the
    processor.
    """
    for other in list(LIVE_TRAINERS):
        if other is trainer:
            continue
        same_model = not set(map(id, other.objective.parameters())).isdisjoint(map(id, trainer.objective.parameters()))
        same_folder = trainer.run is not None and other.run is not None and trainer.run.path == other.run.path
        if not (same_model or same_folder):
            if not at_start:
                warnings.warn(
                    f"another run of this process is {other.state} at step {other.step} "
                    f"({other.run.path if other.run else 'no folder'}); the two will share the processor",
                    stacklevel=4,
                )
            continue
        other.control.submit(Stop(), source="handle")
        wait_for_end(other, timeout)
        if other.view is not None:
            other.view.close()
            other.view = None
        what = "trained this model" if same_model else "wrote to the same run folder"
        warnings.warn(
            f"stopped the run that {what}, at step {other.step} (checkpoint: {other.last_checkpoint})", stacklevel=4
        )


def wait_for_end(trainer: JEPATrainer, timeout: float = PATIENCE_SECONDS) -> None:
    """Wait until a run has ended and put all its things away.

    Raises:
        RuntimeError: It takes longer.
    """
    if not trainer.ended.wait(timeout):
        raise RuntimeError(f"the run that trains this model did not stop within {timeout:g} s; stop it first")
