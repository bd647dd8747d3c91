"""Notebooks as batch runs: parameters, one worker a rank, sweeps, results in run folders."""

from jepa.batch.launch import ENGINES, KERNEL, BatchResult, resume_notebook, run_again, run_notebook, summary
from jepa.batch.local import run_plan
from jepa.batch.parameters import Parameter, ParameterError, check_parameters, read_parameters
from jepa.batch.plan import Plan, plan_sweep
from jepa.batch.sweep import Sweep, SweepError, read_sweep
from jepa.batch.table import runs

__all__ = [
    "ENGINES",
    "KERNEL",
    "BatchResult",
    "Parameter",
    "ParameterError",
    "Plan",
    "Sweep",
    "SweepError",
    "check_parameters",
    "plan_sweep",
    "read_parameters",
    "read_sweep",
    "resume_notebook",
    "run_again",
    "run_notebook",
    "run_plan",
    "runs",
    "summary",
]
