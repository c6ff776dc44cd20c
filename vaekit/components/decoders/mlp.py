"""The decoder ``mlp``."""

from __future__ import annotations

from vaekit.nn.backbones import FullyConnected
from vaekit.roles import decoders


@decoders("mlp")
class MLP(FullyConnected):
    """Fully connected layers from the latent vector to the example; the fastest backbone, for tables and images up to 32×32.

    The last layer has width × pixels weights, with no sharing between pixels; prefer ``cnn`` for larger images. The output may
    have any shape.

    Shapes: ``(B, *in_shape)`` to ``(B, *out_shape)``, both arbitrary; outputs are unbounded.

    References:
        Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114, appendix C.
    """
