"""Several processes that learn one model together, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """Who learns together: this process is number ``rank`` of ``count``.

    Examples
    --------
    >>> Processes.join()
    Processes(rank=0, count=1)
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Self:
        """Meet the other processes that ``torchrun`` has started, where there are some."""
        if not distributed.is_available():
            return cls()
        if not distributed.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
                return cls()
            distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def shared(self, module: nn.Module) -> nn.Module:
        """A module whose gradients are means over all processes."""
        return module if self.count == 1 else DistributedDataParallel(module)

    def mean(self, numbers: dict[str, float]) -> dict[str, float]:
        """The mean of each number over all processes."""
        if self.count == 1:
            return numbers
        total = torch.tensor(list(numbers.values()), dtype=torch.float64)
        distributed.all_reduce(total)
        return dict(zip(numbers, (total / self.count).tolist(), strict=True))
