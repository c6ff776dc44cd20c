"""Opens, checks and runs exported ONNX files."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from vaekit.errors import ExportError, plain
from vaekit.export.metadata import FORMAT, KEY, digest_of

if TYPE_CHECKING:
    from vaekit.export.parity import Function

REMEDY = "export it again: `vaekit export RUN --onnx`"


class OnnxFile:
    """An ONNX file written by vaekit.

    Args:
        path: The file.

    Raises:
        ExportError: The file is missing, truncated, not a valid ONNX model, or not written by vaekit.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ExportError(f"{self.path} does not exist", remedy="export the model first: `vaekit export RUN --onnx`")
        try:
            self.model = onnx.load(self.path, load_external_data=False)
            onnx.checker.check_model(self.path, full_check=True)
        except Exception as error:  # protobuf's, onnx's and the system's have no common base
            raise ExportError(f"{self.path} is truncated or not an ONNX model", given=plain(error), remedy=REMEDY) from None
        self.metadata = self._metadata()

    def _metadata(self) -> dict[str, Any]:
        text = {entry.key: entry.value for entry in self.model.metadata_props}.get(KEY)
        try:
            metadata = json.loads(text or "")
        except ValueError:
            metadata = None
        if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
            raise ExportError(
                f"{self.path} was not exported by vaekit, or by another version of it",
                given=f"producer {self.model.producer_name or 'unknown'} {self.model.producer_version}".strip(),
                expected=f"metadata {KEY!r} of format {FORMAT}",
                remedy=REMEDY,
            )
        return metadata

    def check_digest(self) -> None:
        """Check that operations, weights and metadata are unchanged since they were written.

        Raises:
            ExportError: They have changed, or a file with weights is missing.
        """
        try:
            whole = onnx.load(self.path)
        except Exception as error:  # see __init__
            raise ExportError(f"the weights of {self.path} cannot be read", given=plain(error), remedy=REMEDY) from None
        if self.metadata.get("digest") != digest_of(whole, self.metadata):
            raise ExportError(f"{self.path} is damaged: its content has changed since it was written", remedy=REMEDY)

    @property
    def size(self) -> int:
        """The size of the file in bytes, including that of the weights file beside it, if there is one."""
        data = self.path.with_name(self.path.name + ".data")
        return self.path.stat().st_size + (data.stat().st_size if data.is_file() else 0)

    @cached_property
    def function(self) -> Function:
        """The function of the file, run by ONNX Runtime in a single thread, so that sums have the same order on any machine."""
        return self.load(threads=1)

    def load(self, threads: int) -> Function:
        """Return the function of the file, run by ONNX Runtime on the CPU.

        Args:
            threads: The number of threads.

        Raises:
            ExportError: ONNX Runtime cannot load the file.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base
            raise ExportError(f"ONNX Runtime {onnxruntime.__version__} cannot load {self.path}", given=plain(error)) from None
        names = [entry.name for entry in session.get_inputs()]
        return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))
