"""The metadata of an exported file: a JSON object stored in the model and in a file beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from vaekit._version import __version__
from vaekit.specs.text import portable

if TYPE_CHECKING:
    import onnx

    from vaekit.export.parts import Part, Port
    from vaekit.export.trained import Scaling, Trained

KEY = "vaekit"
"""The key of the metadata in an ONNX model."""
FORMAT = 2
Precision = Literal["fp32", "fp16", "int8"]


def describe(trained: Trained, part: Part, *, precision: Precision, licence: str | None) -> dict[str, Any]:
    """Return the information that another program needs to use a part, and the provenance of the part.

    Only the name of the dataset is included, since its options contain paths on the machine that trained the model; the paths of
    other parts are reduced to names.
    """
    spec = portable(trained.spec.model_dump(mode="json"))
    spec["data"]["dataset"] = {"kind": trained.spec.data.dataset.kind}
    channels = trained.channel_scalings
    return {
        "format": FORMAT,
        "part": part.name,
        "precision": precision,
        "licence": licence,
        "inputs": [_port(port) for port in part.inputs],
        "outputs": [_port(port) for port in part.outputs],
        "latent_size": trained.vae.latent_dim,
        "class_names": None if trained.class_names is None else list(trained.class_names),
        "data_shape": list(trained.vae.data_shape),
        "value_range": list(trained.vae.value_range),
        "prior": spec["model"]["prior"],
        "latents": [
            {"mean": latent.mean, "std": latent.std, "range": list(latent.range), "kl": latent.kl} for latent in trained.latents
        ],
        **_factors(trained.scaling),
        "channels": None if channels is None else [_factors(scaling) for scaling in channels],
        **part.about,
        "spec": spec,
        "versions": {"exported_with": {"vaekit": __version__}, "trained_with": dict(trained.versions)},
    }


def attach(model: onnx.ModelProto, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Store the metadata in an ONNX model, with a digest of both; return what was stored."""
    sealed = {**metadata, "digest": digest_of(model, metadata)}
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=json.dumps(sealed, ensure_ascii=False))
    return sealed


def digest_of(model: onnx.ModelProto, metadata: Mapping[str, Any]) -> str:
    """Return a digest of a model's operations, weights and versions, and of its metadata except for the digest itself."""
    from onnx import numpy_helper

    plain = {name: value for name, value in metadata.items() if name != "digest"}
    digest = hashlib.blake2b(json.dumps(plain).encode(), digest_size=16)
    digest.update(f"{model.ir_version} {model.producer_name} {model.producer_version} {model.graph.name}".encode())
    graph = model.graph
    for message in (*model.opset_import, *graph.input, *graph.output, *graph.node):
        digest.update(message.SerializeToString(deterministic=True))
    for tensor in graph.initializer:
        digest.update(f"{tensor.name} {tensor.data_type} {tuple(tensor.dims)}".encode())
        digest.update(numpy_helper.to_array(tensor).tobytes())
    return digest.hexdigest()


def as_text(metadata: Mapping[str, Any]) -> str:
    """Return the metadata as the text of the file beside the model."""
    return json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"


def _factors(scaling: Scaling) -> dict[str, float]:
    return {"scaling_factor": scaling.scale, "shift_factor": scaling.shift}


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "type": port.type, "shape": ["batch", *port.shape]}
