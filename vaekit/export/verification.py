"""Verifies that an exported file is complete and correct, at any time after it was written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.errors import ExportError
from vaekit.export import metadata as about
from vaekit.export.parity import TOLERANCE, TOLERANCES, Array, Function, Parity, compare, torch_function
from vaekit.export.parts import NUM_EXAMPLES, part_of, scorer_units
from vaekit.export.reading import REMEDY, OnnxFile

if TYPE_CHECKING:
    from vaekit.export.trained import Trained


def verify(path: str | Path, trained: Trained | None = None) -> Parity:
    """Check an exported ONNX file, either by itself or against the model that it was exported from.

    By itself, the file must be a valid model, unchanged since vaekit exported it, agree with the JSON file beside it, and return
    the shapes stated in its metadata, images within their range, and the same output for an example alone and in a batch.

    Args:
        path: The exported file.
        trained: The model, whose outputs are then compared with those of the file, as at export.

    Raises:
        ExportError: A check failed; the message states which, with the numbers.
    """
    file = OnnxFile(path)
    _check_sidecar(file)
    file.check_digest()
    if trained is None:
        examples = _examples(file.metadata)
        outputs = file.function(examples)
        _check_outputs(file, outputs)
        units = scorer_units(outputs[0], file.metadata["threshold"]) if file.metadata["part"] == "scorer" else ()
        return compare(file.function, _rows_of(outputs, examples), examples, tolerance=TOLERANCE, units=units).require(
            f"the output of {file.path} for an example depends on the batch", remedy=REMEDY
        )
    part = part_of(trained, file.metadata["part"])
    expected = about.describe(trained, part, precision="fp32", licence=None)
    for key in ("latent_size", "data_shape", "value_range", "class_names", "inputs", "outputs", "threshold"):
        if file.metadata.get(key) != expected.get(key):
            raise ExportError(
                f"{file.path} is from another run: {key} differs", given=file.metadata.get(key), expected=expected.get(key)
            )
    return compare(
        file.function,
        torch_function(part),
        [each.numpy() for each in part.examples],
        tolerance=TOLERANCES[file.metadata["precision"]],
        units=part.units,
    ).require(f"{file.path} differs from the model of the run", remedy=REMEDY)


def _check_sidecar(file: OnnxFile) -> None:
    sidecar = file.path.with_suffix(".json")
    try:
        same = not sidecar.is_file() or json.loads(sidecar.read_text("utf-8")) == file.metadata
    except ValueError:
        same = False
    if not same:
        raise ExportError(f"{sidecar} does not belong to {file.path}", remedy=REMEDY)


def _examples(metadata: dict[str, Any]) -> list[Array]:
    """Return 64 examples of each input: data or codes, and labels."""
    rng = np.random.default_rng(0)
    shape = (NUM_EXAMPLES, *metadata["inputs"][0]["shape"][1:])
    if metadata["part"] != "decoder":
        low, high = metadata["value_range"]
        first = rng.uniform(low, high, shape).astype(np.float32)
    else:
        mean, std = (np.array([latent[key] for latent in metadata["latents"]], np.float32) for key in ("mean", "std"))
        first = (mean + std * rng.standard_normal((NUM_EXAMPLES, len(mean)), dtype=np.float32)).reshape(shape)
    return [first, *(np.arange(NUM_EXAMPLES) % len(metadata["class_names"]) for _ in metadata["inputs"][1:])]


def _check_outputs(file: OnnxFile, outputs: Any) -> None:
    expected = [(NUM_EXAMPLES, *output["shape"][1:]) for output in file.metadata["outputs"]]
    given = [output.shape for output in outputs]
    if given != expected:
        raise ExportError(
            f"{file.path} returns shapes that contradict its metadata", given=given, expected=expected, remedy=REMEDY
        )
    low, high = file.metadata["value_range"]
    if file.metadata["part"] in ("decoder", "autoencoder") and not all(
        output.min() >= low and output.max() <= high for output in outputs
    ):
        given = [f"{output.min():g} to {output.max():g}" for output in outputs]
        raise ExportError(f"{file.path} returns images outside their range", given=", ".join(given), expected=f"{low} to {high}")


def _rows_of(outputs: Any, examples: Sequence[Array]) -> Function:
    """Return a function that looks up the outputs of known examples."""
    rows = {example.tobytes(): i for i, example in enumerate(examples[0])}
    return lambda inputs: [output[[rows[example.tobytes()] for example in inputs[0]]] for output in outputs]
