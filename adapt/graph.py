"""The bipartite graph of ABG: every frame (or video) of the source's batch with every one of the target's.

    m_ij = sigmoid(MLP(|x_i - x_j|)), i a node of the source, j one of the target
    r_ij = m_ij / sum_i m_ij, then e_ij = r_ij / sum_j r_ij: the rows of e sum to 1, its columns do not
    z_i = phi([x_i, sum_j e_ij x_j]) and z_j = phi([x_j, sum_i e_ij x_i])

Letters here: S, T nodes of the source and of the target, D their width, O the width of a layer.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.dropout import Dropout
from adapt.losses import exact
from adapt.pairs import SLOPE, LinearOfDifferences, NormalisedLinear, batch_statistics

EDGE_WIDTHS = (1024, 512)
NODE_WIDTH, OUTPUT_WIDTH = 1024, 512
DROPOUT = 0.2


class Edges(nn.Module):
    """m_ij of all pairs: twice Linear without bias, BatchNorm, LeakyReLU and Dropout2d, then Linear to 1.

    BatchNorm is over all pairs, and Dropout2d drops a feature for the whole graph.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = (width, *EDGE_WIDTHS)
        self.first, self.second = (
            nn.Linear(n_in, n_out, bias=False) for n_in, n_out in itertools.pairwise(sizes)
        )
        self.first_norm, self.second_norm = (nn.BatchNorm1d(n) for n in EDGE_WIDTHS)
        self.last = nn.Linear(EDGE_WIDTHS[-1], 1)

    def forward(self, source_SD: Tensor, target_TD: Tensor) -> Tensor:
        """(S, D), (T, D) -> m (S, T), float32."""
        h = LinearOfDifferences.apply(source_SD, target_TD, self.first.weight)
        h = self._activated(h, self.first_norm, self.second)
        m = exact(self._activated(h, self.second_norm, self.last)).sigmoid()
        return m.view(len(source_SD), len(target_TD))

    def _activated(self, h: Tensor, norm: nn.BatchNorm1d, then: nn.Linear) -> Tensor:
        """Norm, LeakyReLU, Dropout2d and the next product."""
        keep_O = F.dropout(h.new_ones(h.shape[1]), DROPOUT, self.training)
        assert norm.running_mean is not None and norm.running_var is not None
        mean_O, variance_O = norm.running_mean, norm.running_var
        if norm.training:
            mean_O, variance_O = batch_statistics(norm, h)
        scale_O = (variance_O + norm.eps).rsqrt()
        result: Tensor = NormalisedLinear.apply(
            *(h, norm.weight, norm.bias, then.weight, then.bias),
            *(mean_O, scale_O, keep_O, norm.training),
        )
        return result


class Nodes(nn.Module):
    """phi: (., 2 D) -> (., 512), two layers of Linear without bias, BatchNorm and LeakyReLU, then Dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * width, NODE_WIDTH, bias=False),
            nn.BatchNorm1d(NODE_WIDTH),
            nn.LeakyReLU(SLOPE),
            nn.Linear(NODE_WIDTH, OUTPUT_WIDTH, bias=False),
            nn.BatchNorm1d(OUTPUT_WIDTH),
            nn.LeakyReLU(SLOPE),
            Dropout(DROPOUT),
        )

    def forward(self, own: Tensor, others: Tensor) -> Tensor:
        """A node's feature, and the weighted sum of the other domain's."""
        result: Tensor = self.layers(torch.cat([own, others], dim=1))
        return result


class Graph(nn.Module):
    """One bipartite graph with its edges and nodes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.edges, self.nodes = Edges(width), Nodes(width)

    def forward(self, source_SD: Tensor, target_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes of both domains -> z of both, (S, 512) and (T, 512); the source's pass phi first."""
        e_ST = edge_weights(self.edges(source_SD, target_TD))
        z_S = self.nodes(source_SD, e_ST @ exact(target_TD))
        return z_S, self.nodes(target_TD, e_ST.T @ exact(source_SD))

    def row_sums(self, source_SD: Tensor, target_TD: Tensor) -> Tensor:
        """sum_j r_ij of every source node i, (S,): what a further target node adds its own r_ij to."""
        return normalised(self.edges(source_SD, target_TD)).sum(dim=1)

    def join(self, source_SD: Tensor, sums_S: Tensor, target_BTD: Tensor) -> Tensor:
        """z of the target nodes of B videos, each of which joins the same fixed batch on its own.

        Args:
            source_SD: the source's nodes of that batch.
            sums_S: `row_sums` of its target nodes.
            target_BTD: T nodes of each of the B videos.
        """
        B, T, _ = target_BTD.shape
        flat = target_BTD.flatten(0, 1)
        r_SBT = normalised(self.edges(source_SD, flat)).view(-1, B, T)
        e_SBT = r_SBT / (sums_S[:, None, None] + r_SBT.sum(dim=2, keepdim=True))
        result: Tensor = self.nodes(flat, e_SBT.flatten(1).T @ exact(source_SD))
        return result.view(B, T, -1)


def normalised(m_ST: Tensor) -> Tensor:
    """r_ij = m_ij / sum_i m_ij."""
    return m_ST / m_ST.sum(dim=0, keepdim=True).clamp_min(torch.finfo(m_ST.dtype).tiny)


def edge_weights(m_ST: Tensor) -> Tensor:
    """e_ij = r_ij / sum_j r_ij."""
    r_ST = normalised(m_ST)
    return r_ST / r_ST.sum(dim=1, keepdim=True).clamp_min(torch.finfo(m_ST.dtype).tiny)
