"""Exported ONNX files, opened, checked and run."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from vaekit.errors import ExportError
from vaekit.export.metadata import FORMAT, KEY

if TYPE_CHECKING:
    from vaekit.export.parity import Function

REMEDY = "export it again: `vaekit export RUN --onnx`"


class OnnxFile:
    """An ONNX file that vaekit wrote.

    Args:
        path: The file.

    Raises:
        ExportError: It is absent, truncated, no valid ONNX model, or not vaekit's.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ExportError(f"there is no file {self.path}", remedy="export one: `vaekit export RUN --onnx`")
        try:
            self.model = onnx.load(self.path, load_external_data=False)
            onnx.checker.check_model(self.path, full_check=True)
        except Exception as error:  # protobuf's, onnx's and the system's have no common base
            reason = " ".join(str(error).split())[:300]
            raise ExportError(f"{self.path} is truncated or no ONNX model", given=reason, remedy=REMEDY) from None
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

    @property
    def size(self) -> int:
        """Bytes of the file and of the one beside that holds its weights, where there is one."""
        data = self.path.with_name(self.path.name + ".data")
        return self.path.stat().st_size + (data.stat().st_size if data.is_file() else 0)

    @cached_property
    def function(self) -> Function:
        """What it computes, by ONNX Runtime in one thread: a sum then has one order, on any machine."""
        return self.load(threads=1)

    def load(self, threads: int) -> Function:
        """Return what it computes, by ONNX Runtime on the CPU.

        Args:
            threads: How many.

        Raises:
            ExportError: The runtime refuses it.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base
            reason = " ".join(str(error).split())[:300]
            raise ExportError(f"ONNX Runtime {onnxruntime.__version__} refuses {self.path}", given=reason) from None
        [entry] = session.get_inputs()
        return lambda inputs: session.run(None, {entry.name: inputs})
