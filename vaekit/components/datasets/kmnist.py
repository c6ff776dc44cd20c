"""KMNIST."""

from __future__ import annotations

from vaekit.components.datasets._downloaded import MNISTReplacement
from vaekit.roles import datasets


@datasets("kmnist")
class KMNIST(MNISTReplacement):
    """Cursive Japanese characters, 28×28 grey, 10 classes: 55,000 train, 5,000 validation, 10,000 test; 21 MB download.

    References:
        Clanuwat et al. (2018), "Deep Learning for Classical Japanese Literature", arXiv:1812.01718.
    """

    torchvision_name = "KMNIST"
    class_names = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
