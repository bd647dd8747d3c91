"""Which devices and threads each of several runs on this machine has."""

from __future__ import annotations

import os

import torch


def share_out(jobs: int, processes: int) -> list[dict[str, str]]:
    """Environment variables of `jobs` runs at a time, of `processes` processes each.

    Where there are GPUs, each process of each run has one of its own. Elsewhere the cores are shared out as threads;
    a number of threads that is set already stays.

    Raises:
        ValueError: There are fewer GPUs than processes, or a number is below 1.
    """
    if jobs < 1 or processes < 1:
        raise ValueError(f"jobs and processes must be at least 1, got {jobs} and {processes}")
    threads = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // (jobs * processes), 1))} | _threads_set()
    visible = _visible_gpus()
    if not visible:
        return [threads] * jobs
    if jobs * processes > len(visible):
        raise ValueError(
            f"{jobs} runs at a time with {processes} processes each need {jobs * processes} GPUs, there are "
            f"{len(visible)}; ask for fewer, or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the processor"
        )
    shares = [visible[job * processes : (job + 1) * processes] for job in range(jobs)]
    return [{**threads, "CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def _threads_set() -> dict[str, str]:
    return {"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]} if "OMP_NUM_THREADS" in os.environ else {}


def _visible_gpus() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` calls the GPUs that this process sees."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or list(map(str, range(count))))[:count]
