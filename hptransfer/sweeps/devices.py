"""How the trials of a sweep share accelerators."""

import os
from collections.abc import Mapping, Sequence

from hptransfer.errors import UserError
from hptransfer.sweeps.trials import Run

VISIBLE = "CUDA_VISIBLE_DEVICES"


def accelerators(runs: Sequence[Run]) -> int:
    """Number of accelerators here that the runs would use; 0 where they train on the CPU."""
    import torch

    wanted = any(run.trial.config.train.device != "cpu" for run in runs)
    return torch.accelerator.device_count() if wanted and torch.accelerator.is_available() else 0


def environment_of(worker: int, devices: int) -> Mapping[str, str]:
    """Environment variables that give a worker its accelerator, in turn; none are needed for one."""
    if devices < 2:
        return {}
    names = os.environ.get(VISIBLE) or ",".join(map(str, range(devices)))
    return {VISIBLE: names.split(",")[worker % devices]}


def check_memory(runs: Sequence[Run], trials: int) -> None:
    """UserError where the largest runs, `trials` at a time, would not fit into the memory of one accelerator."""
    import torch

    free, _ = torch.accelerator.get_memory_info(0)
    if (needed := memory_of(runs, trials)) > free:
        raise UserError(
            f"--trials-per-device {trials}: the largest {trials} runs need about {needed / 2**30:.1f} GiB together, "
            f"the device has {free / 2**30:.1f} GiB free; take fewer, or a smaller train.micro_batch"
        )


def memory_of(runs: Sequence[Run], trials: int) -> int:
    """Estimated bytes of the largest runs that may be on one device at a time."""
    return sum(sorted(run.memory for run in runs)[-trials:])
