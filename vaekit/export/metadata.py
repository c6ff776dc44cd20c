"""What an exported file says of itself: one JSON object, in the model and in a file beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from vaekit._version import __version__

if TYPE_CHECKING:
    import onnx

    from vaekit.export.parts import Part, Port
    from vaekit.export.trained import Trained

KEY = "vaekit"
"""Key of the metadata in an ONNX model."""
FORMAT = 1
Precision = Literal["fp32", "fp16", "int8"]


def describe(trained: Trained, part: Part, *, precision: Precision, licence: str | None) -> dict[str, Any]:
    """Return what another program must know to use a part, and where the part comes from.

    Of the data set only the name is told: its options hold paths of the machine that it was trained on.
    """
    spec = trained.spec.model_dump(mode="json")
    spec["data"]["dataset"] = {"kind": trained.spec.data.dataset.kind}
    return {
        "format": FORMAT,
        "part": part.name,
        "precision": precision,
        "licence": licence,
        "input": _port(part.input),
        "outputs": [_port(port) for port in part.outputs],
        "latent_size": trained.vae.latent_dim,
        "image_shape": list(trained.vae.image_shape),
        "value_range": [0.0, 1.0],
        "prior": spec["model"]["prior"],
        "latents": [
            {"mean": latent.mean, "std": latent.std, "range": list(latent.range), "kl": latent.kl} for latent in trained.latents
        ],
        "spec": spec,
        "versions": {"exported_with": {"vaekit": __version__}, "trained_with": dict(trained.versions)},
    }


def attach(model: onnx.ModelProto, metadata: Mapping[str, Any]) -> None:
    """Put the metadata into an ONNX model."""
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=json.dumps(metadata, ensure_ascii=False))


def as_text(metadata: Mapping[str, Any]) -> str:
    """Write the metadata as the file beside the model has it."""
    return json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "shape": ["batch", *port.shape]}
