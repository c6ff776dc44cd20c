"""β-TCVAE: the KL split into mutual information, total correlation and dimension-wise KL."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor

from vaekit.distributions import FactorisedDensity
from vaekit.interfaces import Capability, Loss, Slot
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Site, Trace

Estimator = Literal["stratified", "weighted"]


class Decomposition(NamedTuple):
    """Estimates in nats per example, ``(B,)``, which sum to the sampled KL."""

    mutual_information: Tensor
    total_correlation: Tensor
    dimension_wise_kl: Tensor


@losses("tc")
class TC(Loss):
    """``α MI + β TC + γ KL_dim``: β-TCVAE penalises dependence between latents, but not the information they carry.

    The aggregate posterior q(z) is estimated from the batch with ``B^2 D`` densities per step; larger batches give better
    estimates.

    Args:
        beta: Weight of the total correlation.
        alpha: Weight of the mutual information between images and codes.
        gamma: Weight of the dimension-wise KL.
        estimator: Estimator of q(z): `stratified` is unbiased, and exact if the batch is the whole dataset; `weighted` is the
            paper's minibatch-weighted sampling, which shifts the logged terms by constants.

    References:
        Chen et al. (2018), "Isolating Sources of Disentanglement in Variational Autoencoders", NeurIPS, arXiv:1802.04942,
            equations 2 and 4, appendix C.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"divergence"})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB, Capability.FACTORISED})
    batch_statistic = True

    def __init__(
        self,
        *,
        beta: NonNegativeScheduled = 6.0,
        alpha: NonNegativeScheduled = 1.0,
        gamma: NonNegativeScheduled = 1.0,
        estimator: Estimator = "stratified",
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.gamma = scheduled(alpha), scheduled(beta), scheduled(gamma)
        self.estimator: Estimator = estimator

    def forward(self, trace: Trace) -> Tensor:
        terms = decompose(trace.site, trace.num_data, self.estimator)
        trace.metrics.update(terms._asdict())
        weights = torch.stack([weight(trace.epoch) for weight in (self.alpha, self.beta, self.gamma)])
        return (weights[:, None] * torch.stack(terms)).sum(0)


def decompose(site: Site, num_data: int | None, estimator: Estimator) -> Decomposition:
    """Decompose the sampled KL of a batch drawn without replacement from ``num_data`` images.

    Args:
        site: A latent variable with one sample per example and a factorised posterior and prior.
        num_data: Size of the dataset; None if the batch is the whole dataset.
        estimator: See `TC`.
    """
    z, q = site.z, cast("FactorisedDensity", site.q)
    batch = z.shape[0]
    total = max(batch, num_data if num_data is not None else batch)
    log_q_BBD = q.log_prob_per_dim(z.unsqueeze(1))  # [i, j, d] = log q(z_i,d | x_j)
    if estimator == "weighted":
        log_w = log_q_BBD.new_full((batch, batch), -math.log(total * batch))
    else:
        log_w = stratified_log_weights(batch, total, like=log_q_BBD)
    log_q_B = torch.logsumexp(log_q_BBD.sum(-1) + log_w, 1)  # the weights are applied once, after the sum over dimensions
    log_product_B = torch.logsumexp(log_q_BBD + log_w.unsqueeze(-1), 1).sum(-1)
    return Decomposition(site.log_q - log_q_B, log_q_B - log_product_B, log_product_B - site.log_p)


def stratified_log_weights(batch: int, total: int, *, like: Tensor) -> Tensor:
    """Return log weights ``(B, B)`` such that the weighted sum of row i's densities is an unbiased estimate of q(z_i).

    ``q(z) = (1/N) q(z|x_i) + ((N-1)/N) mean over the other images``. The rest of the batch represents the other images, so the
    weights are 1/N on the diagonal and (N-1) / (N (B-1)) elsewhere. (The paper's code, and code copied from it, fills a column
    instead of the diagonal; the weights of the paper's appendix have the same mean and a larger variance.)
    """
    if batch == 1:
        return like.new_zeros(1, 1)
    own = torch.eye(batch, device=like.device, dtype=torch.bool)
    off_diagonal = math.log((total - 1) / (total * (batch - 1)))
    return torch.where(own, like.new_full((), -math.log(total)), like.new_full((), off_diagonal))  # created on the device
