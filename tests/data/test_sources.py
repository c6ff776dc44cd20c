"""Sources of examples."""

from __future__ import annotations

import torch

from vaekit.data.sources import TensorImages


def test_examples_are_identified_by_their_row_and_by_what_else_the_source_knows() -> None:
    images, labels, rows = torch.zeros(4, 1, 2, 2), torch.tensor([1, 0, 1, 0]), torch.tensor([3, 2])
    bare = TensorImages(images).places(rows)
    assert {name: column.tolist() for name, column in bare.items()} == {"row": [3, 2]}
    named = TensorImages(images, labels, ("cat", "dog"), ["a.png", "b.png", "c.png", "d.png"]).places(rows)
    assert {name: column.tolist() for name, column in named.items()} == {
        "row": [3, 2],
        "file": ["d.png", "c.png"],
        "label": [0, 1],
        "class_name": ["cat", "dog"],
    }


def test_class_names_that_repeat_the_numbers_are_omitted() -> None:
    source = TensorImages(torch.zeros(4, 1, 2, 2), torch.tensor([1, 0, 1, 0]), ("0", "1"))
    assert list(source.places(torch.arange(4))) == ["row", "label"]
