"""Notebooks as batch runs: parameters, one worker a rank, results in a run folder."""

from jepa.batch.launch import BatchResult, resume_notebook, run_again, run_notebook, summary
from jepa.batch.parameters import Parameter, ParameterError, check_parameters, read_parameters

__all__ = [
    "BatchResult",
    "Parameter",
    "ParameterError",
    "check_parameters",
    "read_parameters",
    "resume_notebook",
    "run_again",
    "run_notebook",
    "summary",
]
