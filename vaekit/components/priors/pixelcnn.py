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
    """Codes predicted one by one, in raster order, from those before them: a gated PixelCNN for grids of 1 to 3 dimensions.

    It is usually fitted to a trained `vq` or `fsq` model: ``vaekit fit-prior RUN --prior pixelcnn``. Trained with the model
    instead, it sends the encoder no gradient. The probability of all codes takes one pass, a draw as many small steps as
    there are positions. If a position has several code numbers, as the channels of `fsq` do, they are predicted in turn. A
    vector (no ``--latent-stride``) is one position.

    Args:
        width: Number of features of each stack of convolutions.
        depth: Number of layers.
        kernel: Size of a kernel along each side; an odd number.

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
            raise UsageError("a kernel of the prior 'pixelcnn' has a centre", given=f"size {kernel}", expected="an odd number")
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
    """Return initial weights: embeddings have variance 1, other weights preserve the scale of a signal, biases are 0."""
    if "bias" in name:
        return torch.zeros(shape)
    table = name in ("codes", "before", "start")
    return torch.randn(shape) / (1 if table else math.sqrt(math.prod(shape[2 if name == "logits" else 1 :])))
