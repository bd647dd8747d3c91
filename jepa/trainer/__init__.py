"""The loop, its events, and the commands that steer it."""

from jepa.config.schema import TrainerConfig
from jepa.trainer.branching import fork_run
from jepa.trainer.callback import Callback, EarlyStopping
from jepa.trainer.checkpoint import CheckpointError
from jepa.trainer.create import create_trainer
from jepa.trainer.eval import JEPAEvaluator
from jepa.trainer.handle import RunHandle
from jepa.trainer.history import History
from jepa.trainer.inspection import Inspection
from jepa.trainer.recorder import NonFiniteLossError
from jepa.trainer.remote import RemoteRun, attach
from jepa.trainer.replay import Replay
from jepa.trainer.run import RunConflictError, RunFolder
from jepa.trainer.signals import TrainingInterrupted
from jepa.trainer.status import Status
from jepa.trainer.trainer import JEPATrainer

__all__ = [
    "Callback",
    "CheckpointError",
    "EarlyStopping",
    "History",
    "Inspection",
    "JEPAEvaluator",
    "JEPATrainer",
    "NonFiniteLossError",
    "RemoteRun",
    "Replay",
    "RunConflictError",
    "RunFolder",
    "RunHandle",
    "Status",
    "TrainerConfig",
    "TrainingInterrupted",
    "attach",
    "create_trainer",
    "fork_run",
]
