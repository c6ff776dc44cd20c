"""The encoder ``mlp``."""

from __future__ import annotations

from vaekit.nn.backbones import FullyConnected
from vaekit.roles import encoders


@encoders("mlp")
class MLP(FullyConnected):
    """Fully connected layers over the flattened example; the fastest backbone, for tables and images up to about 32×32.

    The first layer has pixels × width weights and ignores the spatial structure; prefer ``cnn`` for larger images. The input
    may have any shape.

    Shapes: ``(B, *in_shape)`` to ``(B, *out_shape)``, both arbitrary.

    References:
        Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114, appendix C.
    """
