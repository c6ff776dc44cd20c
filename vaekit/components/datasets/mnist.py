"""MNIST."""

from __future__ import annotations

from vaekit.components.datasets._downloaded import MNISTReplacement
from vaekit.roles import datasets


@datasets("mnist")
class MNIST(MNISTReplacement):
    """Handwritten digits, 28×28 grey: 55,000 train, 5,000 validation, 10,000 test; 12 MB download.

    References:
        LeCun et al. (1998), "Gradient-Based Learning Applied to Document Recognition", Proceedings of the IEEE 86(11).
    """

    torchvision_name = "MNIST"
    class_names = tuple("0123456789")
