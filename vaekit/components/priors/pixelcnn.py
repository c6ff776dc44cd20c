"""An autoregressive prior over codes."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from vaekit.distributions.pixelcnn import Form, PixelCNNCodes
from vaekit.errors import UsageError
from vaekit.interfaces import Capability, Prior, Shape
from vaekit.roles import priors
from vaekit.schema import Few


@priors("pixelcnn")
class PixelCNN(Prior):
    """A gated PixelCNN for grids of 1 to 3 dimensions, which predicts codes one by one in raster order.

    It is usually fitted to a trained `vq` or `fsq` model: ``vaekit fit-prior RUN --prior pixelcnn``. If trained jointly with
    the model, it passes no gradient to the encoder. The likelihood takes one pass, sampling as many small steps as there are
    positions. If a position has several codes, like the channels of `fsq`, they are predicted in turn. A vector (no
    ``--latent-stride``) is a single position.

    Args:
        width: Number of features in each stack of convolutions.
        depth: Number of layers.
        kernel: Kernel size along each side; an odd number.

    References:
        van den Oord et al. (2016), "Conditional Image Generation with PixelCNN Decoders", NeurIPS, arXiv:1606.05328, section 2.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.READABLE})
    space = "codes"
    closed: Tensor

    def __init__(
        self,
        latent_dim: int,
        latent_shape: Shape,
        code_sizes: Shape,
        *,
        width: Few = 64,
        depth: Annotated[Few, Field(le=100)] = 4,
        kernel: Annotated[int, Field(ge=3, le=99)] = 3,
    ) -> None:
        super().__init__(latent_dim)
        if kernel % 2 == 0:
            raise UsageError("the prior 'pixelcnn' needs an odd kernel size", given=f"size {kernel}", expected="an odd number")
        self.num = math.prod(latent_shape[1:])
        self.form = Form(tuple(side for side in latent_shape[1:] if side > 1), tuple(code_sizes), width, depth, kernel)
        self.weights = nn.ParameterDict({name: _initial(name, shape) for name, shape in self.form.shapes().items()})
        values = torch.arange(self.form.most)
        closed = torch.stack([torch.where(values < size, 0.0, -torch.inf) for size in code_sizes])
        self.register_buffer("closed", closed, persistent=False)

    def forward(self, model: Any = None, c: Tensor | None = None) -> PixelCNNCodes:
        del c
        weights = {name: self.weights[name] for name in self.form.shapes()}
        return PixelCNNCodes(self.form, {**weights, "closed": self.closed}, model.posterior.vocabulary)

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw ``(num, P R)``, uniform on [0, 1); the temperature has no effect."""
        del temperature
        shape = num, self.num * len(self.form.sizes)
        return torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)


def _initial(name: str, shape: Shape) -> Tensor:
    """Return initial weights: embeddings have unit variance, other weights preserve the signal's scale, biases are 0."""
    if "bias" in name:
        return torch.zeros(shape)
    table = name in ("codes", "before", "start")
    return torch.randn(shape) / (1 if table else math.sqrt(math.prod(shape[2 if name == "logits" else 1 :])))
