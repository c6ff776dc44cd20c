"""The exporter ``playground``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import vaekit
from vaekit.components.exporters.onnx import Onnx
from vaekit.errors import ExportError, UsageError
from vaekit.export.exporter import Exported
from vaekit.export.staging import staged
from vaekit_playground import page, runtime

if TYPE_CHECKING:
    from vaekit.export.parts import PartName
    from vaekit.export.trained import Trained

LARGEST = 256 * 2**20
"""Maximum size of a model in bytes: browsers do not support strings of more than 512 MB."""
NUM_DRAWS = 256
"""Number of prior samples embedded in the page if it cannot sample from the prior itself."""


@vaekit.exporters("playground")
class Playground(vaekit.Exporter):
    """An interactive web page: sliders, samples, interpolation, image encoding; opens from disk, sends no data.

    The page contains the decoder and the encoder as verified ONNX exports, and ONNX Runtime Web (4 MB) to run them. The first
    export downloads the runtime with npm to the user's cache folder.

    Args:
        encoder: Whether to include the encoder, for encoding images.
        licence: Licence of the model, stored in the metadata and shown on the page, for example CC-BY-4.0.
        runtime: Folder with the two files of ONNX Runtime Web; default: the user's cache folder.
    """

    suffix: ClassVar[str] = ".html"

    def __init__(self, *, encoder: bool = True, licence: str | None = None, runtime: str | None = None) -> None:
        self.encoder, self.licence, self.runtime = encoder, licence, runtime

    def export(self, trained: Trained, part: PartName, path: Path) -> Exported:
        if part != "decoder":
            raise UsageError(
                "a playground shows the decoder",
                given=f"--part {part}",
                remedy="omit --part; --encoder adds the encoder",
            )
        shape = trained.vae.data_shape
        if len(shape) != 3 or shape[0] not in {1, 3}:
            raise ExportError(
                "a playground supports grey and RGB images",
                given=f"data of shape {shape}",
                expected="shape (1, height, width) or (3, height, width)",
            )
        if trained.vae.condition.size or len(trained.vae.latent_shape) > 1:
            raise ExportError("a playground supports unconditional models with latent vectors", remedy="export it with --onnx")
        files = runtime.load(self.runtime)
        parts: list[PartName] = ["decoder", "encoder"] if self.encoder else ["decoder"]
        binaries = {"module": files[runtime.MODULE], "wasm": files[runtime.WASM]}
        metadata: dict[str, Any] = {}
        done: dict[str, Exported] = {}
        with tempfile.TemporaryDirectory() as folder:
            for name in parts:
                file = Path(folder) / f"{name}.onnx"
                done[name] = Onnx(licence=self.licence).export(trained, name, file)
                if done[name].size > LARGEST:
                    raise ExportError(
                        f"the {name} is too large for a web page",
                        given=f"{done[name].size:,} bytes",
                        expected=f"{LARGEST:,} at most",
                    )
                binaries[name] = file.read_bytes()
                metadata[name] = json.loads(file.with_suffix(".json").read_text("utf-8"))
        about = {**metadata, "runtime": runtime.VERSION, "draws": _draws(trained)}
        text = page.assemble(_title(trained), about, binaries)
        with staged(path) as temporary:
            temporary.write_text(text, "utf-8", newline="\n")
        notes = tuple(f"{name}: largest difference {done[name].parity}" for name in parts[1:])
        return Exported(path, len(text.encode()), done["decoder"].parity, notes)


def _title(trained: Trained) -> str:
    return f"{trained.spec.data.dataset.kind} playground"


def _draws(trained: Trained) -> list[list[float]] | None:
    """Return prior samples; None for a standard normal prior, from which the page can sample itself."""
    if trained.spec.model.prior.kind == "normal":
        return None
    return [[round(value, 4) for value in code] for code in trained.prior_codes(NUM_DRAWS).tolist()]
