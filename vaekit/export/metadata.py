"""The metadata of an exported file: a JSON object stored in the model and in a file beside it."""

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
"""The key of the metadata in an ONNX model."""
FORMAT = 1
Precision = Literal["fp32", "fp16", "int8"]


def describe(trained: Trained, part: Part, *, precision: Precision, licence: str | None) -> dict[str, Any]:
    """Return the information that another program needs to use a part, and the provenance of the part.

    Only the name of the dataset is included, since its options contain paths on the machine that trained the model.
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
        "value_range": list(trained.vae.value_range),
        "prior": spec["model"]["prior"],
        "latents": [
            {"mean": latent.mean, "std": latent.std, "range": list(latent.range), "kl": latent.kl} for latent in trained.latents
        ],
        "spec": spec,
        "versions": {"exported_with": {"vaekit": __version__}, "trained_with": dict(trained.versions)},
    }


def attach(model: onnx.ModelProto, metadata: Mapping[str, Any]) -> None:
    """Store the metadata in an ONNX model."""
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=json.dumps(metadata, ensure_ascii=False))


def as_text(metadata: Mapping[str, Any]) -> str:
    """Return the metadata as the text of the file beside the model."""
    return json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "shape": ["batch", *port.shape]}
