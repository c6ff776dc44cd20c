"""Data: sources of examples, and scaled, augmented and binarised batches of them.

Importing this package does not import torch: names are loaded from their modules on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaekit.data.batches import Batch as Batch
    from vaekit.data.batches import Batches as Batches
    from vaekit.data.images import FileImages as FileImages
    from vaekit.data.sources import ImageSource as ImageSource
    from vaekit.data.sources import Splits as Splits
    from vaekit.data.sources import TensorImages as TensorImages
    from vaekit.data.sources import split_source as split_source
    from vaekit.data.specs import AugmentSpec as AugmentSpec
    from vaekit.data.specs import Binarize as Binarize

_MODULES = {
    "AugmentSpec": "specs",
    "Batch": "batches",
    "Batches": "batches",
    "Binarize": "specs",
    "FileImages": "images",
    "ImageSource": "sources",
    "Splits": "sources",
    "TensorImages": "sources",
    "split_source": "sources",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
