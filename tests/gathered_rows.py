"""What is joined over the processes that torchrun started: a loss of all pairs, the moments of a domain."""

from __future__ import annotations

import os
import sys

import torch
from torch import nn

from adapt import parallel
from adapt.bank import FeatureBank
from adapt.recolour import moments

CPU = torch.device("cpu")


def main(path: str) -> None:
    torch.manual_seed(0)
    layer, rows = nn.Linear(3, 2).double(), torch.randn(8, 3, dtype=torch.float64)
    with parallel.group(os.environ, CPU):
        shared = parallel.wrapped(layer)
        x = parallel.gathered(shared(rows[parallel.share(slice(0, 8))]))
        loss = (torch.cdist(x, x).square() * torch.arange(64).view(8, 8)).sum()
        loss.backward()
        found = {"rows": x.detach(), "loss": loss.detach(), "gradient": layer.weight.grad}
        of_videos = moments(FeatureBank([r.numpy() for r in rows.split([1, 3, 4])], CPU), CPU)
        found |= {"mean": of_videos.mean_D, "covariance": of_videos.covariance_DD}
        if parallel.rank() == 0:
            torch.save(found, path)
        del shared


if __name__ == "__main__":
    main(sys.argv[1])
