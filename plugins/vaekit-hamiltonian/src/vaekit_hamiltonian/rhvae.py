"""The loss ``rhvae``."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

import vaekit
from vaekit.distributions import at_least_float32
from vaekit.interfaces import Shape, Slot
from vaekit.nn.layers import Widths, fully_connected
from vaekit.schema import Count

from .integrators import Metric, gradient_of, quadratic_cooling, riemannian_leapfrog
from .joint import SPACES, Bounded, log_joint_of


@vaekit.losses("rhvae")
class RHVAE(vaekit.Loss):
    """The negative bound of a Riemannian Hamiltonian VAE: `hvae` with a learned metric of the latent space.

    The inverse metric is ``G⁻¹(z) = λ I + sum_i L_i L_iᵀ exp(-|z - c_i|² / T²)``. Its centroids c_i are the codes of N training
    images chosen when training begins, and a network computes the matrix L_i from each image. Momenta are initially ``N(0, G(z)
    / β₀)``. Two of the three parts of a generalised leapfrog step are implicit and solved by fixed-point iteration: the
    residual is the error of the bound, and iterations diverge if steps are too large. The paper uses all images of a small
    training set; every step encodes the N images and factorises D × D matrices.

    Only the objective sees the last code. The ELBO, log p(x), codes and reconstructions of a run are those of q(z₀|x), and
    samples come from the prior, not from the metric. The logged `gain` is the trajectories' contribution to the ELBO.

    Args:
        latent_dim: Number of latents D.
        data_shape: The shape of an example.
        steps: Number of leapfrog steps K.
        step_size: Initial value of the learned step size.
        max_step_size: Upper bound of the step size.
        beta_zero: Initial value of the learned inverse temperature β₀; 1 for no cooling.
        num_centroids: Number of centroids N.
        temperature: Radius T of the neighbourhood of a centroid.
        regularization: Inverse metric λ far from all centroids.
        iterations: Number of iterations for an implicit equation.
        hidden: Widths of the hidden layers in the network that computes the matrices.

    References:
        Chadebec et al. (2020), "Geometry-Aware Hamiltonian Variational Auto-Encoder", arXiv:2010.11518.
        Chadebec et al. (2022), "Data Augmentation in High Dimensional Low Sample Size Setting Using a Geometry-Based Variational
            Autoencoder", TPAMI, arXiv:2105.00026.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"reconstruction", "divergence"})
    requires: ClassVar[frozenset[vaekit.Capability]] = frozenset({vaekit.Capability.LOG_PROB})
    spaces: ClassVar[frozenset[str]] = SPACES
    images: Tensor
    labels: Tensor
    temperature: Tensor
    regularization: Tensor

    def __init__(
        self,
        latent_dim: int,
        data_shape: Shape,
        *,
        steps: Count = 3,
        step_size: PositiveFloat = 0.05,
        max_step_size: PositiveFloat = 0.1,
        beta_zero: Annotated[float, Field(gt=0, le=1)] = 0.7,
        num_centroids: Count = 100,
        temperature: PositiveFloat = 1.5,
        regularization: PositiveFloat = 0.1,
        iterations: Count = 3,
        hidden: Widths = (128,),
    ) -> None:
        super().__init__()
        self.latent_dim, self.steps, self.iterations = latent_dim, steps, iterations
        self.step = Bounded(step_size, max_step_size)
        self.beta_zero = Bounded(beta_zero, 1.0) if beta_zero < 1 else None
        self.register_buffer("images", torch.rand(num_centroids, *data_shape))
        self.register_buffer("labels", torch.zeros(num_centroids, dtype=torch.int64))
        self.register_buffer("temperature", torch.tensor(temperature), persistent=False)
        self.register_buffer("regularization", torch.tensor(regularization), persistent=False)
        self.net = fully_connected(data_shape, hidden, (latent_dim, latent_dim), "silu")

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, model: Any) -> Tensor:
        """Draw the noise γ of the momenta of ``num`` examples, ``(num, D)``."""
        del model
        return torch.randn(num, self.latent_dim, generator=generator, device=like.device, dtype=like.dtype)

    def initial_state(self, trace: vaekit.Trace) -> dict[str, Tensor]:
        index = torch.arange(len(self.images)) * max(1, len(trace.x) // len(self.images)) % len(trace.x)
        return {"images": trace.x[index].nan_to_num(0.0)} | ({} if trace.y is None else {"labels": trace.y[index]})

    def metric(self, model: Any) -> Metric:
        """Return the metric, which depends on the encoder."""
        return Metric(model.encode(self.images, self.labels).mean, self.factors(), self.temperature, self.regularization)

    def factors(self) -> Tensor:
        """Return the matrices L_i, ``(N, D, D)``: lower triangular, with exponentials on the diagonal.

        The network's outputs are bounded by 1, and matrices are divided by the square root of N. Otherwise, training would
        scale up the metric until steps diverge, and the step length would depend on the number of centroids.
        """
        entries = torch.tanh(at_least_float32(self.net(self.images)))
        eye = torch.eye(self.latent_dim, dtype=torch.bool, device=entries.device)
        return torch.where(eye, entries.exp(), entries.tril(-1)) / math.sqrt(len(entries))

    def forward(self, trace: vaekit.Trace) -> Tensor:
        log_joint, noise, metric = log_joint_of(trace), at_least_float32(self.noise_of(trace)), self.metric(trace.model)
        step, z = self.step(), trace.z
        beta_zero = torch.ones_like(step) if self.beta_zero is None else self.beta_zero()
        cooling = quadratic_cooling(beta_zero, self.steps)
        rho = metric.momentum(z, noise)
        start, rho = metric.kinetic(z, rho), rho * beta_zero.rsqrt()
        gradient = gradient_of(lambda z: -log_joint(z))
        z, rho = riemannian_leapfrog(z, rho, gradient, metric, step=step, cooling=cooling, iterations=self.iterations)
        bound = log_joint(z) - trace.site.log_q + start - metric.kinetic(z, rho)
        trace.metrics["gain"] = bound.detach() - trace.log_weight.detach()
        return -bound
