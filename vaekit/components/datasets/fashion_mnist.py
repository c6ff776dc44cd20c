"""Fashion-MNIST."""

from __future__ import annotations

from vaekit.components.datasets._downloaded import MNISTReplacement
from vaekit.roles import datasets


@datasets("fashion_mnist")
class FashionMNIST(MNISTReplacement):
    """Photographs of clothing, 28×28 grey, 10 classes: 55,000 train, 5,000 validation, 10,000 test; 31 MB download.

    References:
        Xiao et al. (2017), "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", arXiv:1708.07747.
    """

    torchvision_name = "FashionMNIST"
    class_names = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
