"""Checks of exporters, on small models built from multilayer perceptrons."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from vaekit.data.facts import Facts
from vaekit.errors import ExportError, UsageError, reason_of
from vaekit.export.exporter import Exported
from vaekit.export.parity import Parity
from vaekit.export.parts import PartName
from vaekit.export.trained import Trained, latents_of
from vaekit.interfaces import Shape
from vaekit.model.assembly import build_vae
from vaekit.specs.resolve import resolve
from vaekit.testing.core import Candidate, ConformanceError, built, check, during, expect

LATENT_DIM = 3
IMAGE_SHAPES: tuple[Shape, ...] = ((1, 6, 5), (3, 5, 4))
OTHER_SHAPES: tuple[Shape, ...] = ((7,), (2, 9), (1, 3, 5, 4))
"""The shapes of a table row, a signal and a volume."""
OLDER = b"an older file"


def trained_of(data_shape: Shape = IMAGE_SHAPES[0], *, seed: int = 0, decoder: nn.Module | None = None) -> Trained:
    """Return a small model in the form passed to exporters, optionally with a different decoder."""
    small = {"kind": "mlp", "hidden": [8]}
    spec = resolve({"model": {"latent_dim": LATENT_DIM, "encoder": small, "decoder": small}})
    vae = build_vae(spec.model, Facts(data_shape=data_shape), seed=seed)
    if decoder is not None:
        vae.decoder = decoder
    return Trained(vae.eval().requires_grad_(False), spec, {"components": {}}, latents_of(vae, None))


@contextmanager
def folder_to_write() -> Iterator[Path]:
    """Create a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def export(candidate: Candidate, trained: Trained, path: Path, part: PartName = "decoder") -> Exported:
    """Export a part; raise if the exporter does or if it does not return an `Exported`."""
    with during(f"exporting the {part} of data of shape {trained.vae.data_shape}"):
        exported: Exported = built(candidate).export(trained, part, path)
    expect(isinstance(exported, Exported), "the result of export", expected="an Exported", got=type(exported).__name__)
    return exported


def refusal_of(candidate: Candidate, trained: Trained, path: Path, part: PartName = "decoder") -> Exception | None:
    """Try to export a part; return the exception raised, if any."""
    try:
        built(candidate).export(trained, part, path)
    except Exception as error:
        return error
    return None


def expect_refused(error: Exception | None, what: str) -> None:
    """Raise unless an export failed with an `ExportError`."""
    got = "no error" if error is None else reason_of(error)
    expect(isinstance(error, ExportError), what, expected="an ExportError with a reason", got=got)


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files in a folder by relative path; subfolders are listed as empty."""
    return {file.relative_to(folder).as_posix(): b"" if file.is_dir() else file.read_bytes() for file in folder.rglob("*")}


class Broken(nn.Module):
    """A decoder that always fails."""

    def forward(self, z: Tensor) -> Tensor:
        raise RuntimeError("this decoder always fails")


class Erratic(nn.Module):
    """A decoder that never returns the same image twice, so no exported file can agree with it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(LATENT_DIM, torch.Size(IMAGE_SHAPES[0]).numel())

    def forward(self, z: Tensor) -> Tensor:
        image: Tensor = self.linear(z)
        return (image + torch.randn_like(image)).view(-1, *IMAGE_SHAPES[0])


@check("exporter")
def check_files(candidate: Candidate) -> None:
    """Every part of models of any shape is either written to the given path, with correct ``Exported`` data, or rejected.

    Additional files may be written next to it, with the same name and other suffixes. A format that does not support a part,
    colour, or data other than images raises an `ExportError` or `UsageError`; it must accept the decoder of at least one model.
    """
    suffix = candidate.cls.suffix
    expect(suffix[:1] == "." and len(suffix) > 1, "the suffix", expected="for example .onnx", got=repr(suffix))
    written = []
    for data_shape in IMAGE_SHAPES + OTHER_SHAPES:
        trained = trained_of(data_shape)
        for part in get_args(PartName):
            what = f"the {part} of data of shape {data_shape}"
            with folder_to_write() as folder:
                path = folder / f"some.model{suffix}"
                try:
                    exported = export(candidate, trained, path, part)
                except ConformanceError as error:
                    if not isinstance(error.__cause__, ExportError | UsageError):
                        raise
                    expect(
                        not files_in(folder), f"files after {what} was rejected", expected="none", got=sorted(files_in(folder))
                    )
                    continue
                written.append(part)
                files = files_in(folder)
                expect(path.is_file(), f"the file of {what}", expected=path.name, got=", ".join(sorted(files)) or "nothing")
                expect(exported.path == path, "Exported.path", expected=path, got=exported.path)
                others = [name for name in files if not name.startswith("some.model.")]
                expect(not others, f"files next to {what}", expected="some.model.…", got=", ".join(others))
                size = sum(map(len, files.values()))
                expect(
                    exported.size == size,
                    f"Exported.size of {what}",
                    expected=f"{size} bytes, the size on disk",
                    got=exported.size,
                )
    expect("decoder" in written, "decoders of grey and colour images", expected="at least one exported", got="both rejected")


@check("exporter")
def check_suffix(candidate: Candidate) -> None:
    """A path with a different suffix is either rejected or written as given."""
    with folder_to_write() as folder:
        path, trained = folder / "model.other", trained_of()
        error = refusal_of(candidate, trained, path)
        files = files_in(folder)
        if isinstance(error, ExportError | UsageError):
            expect(not files, "files after a path was rejected", expected="none", got=", ".join(sorted(files)))
            return
        got = ", ".join(sorted(files)) or "nothing"
        expect(error is None and path.name in files, "the file of the path model.other", expected=path.name, got=error or got)


@check("exporter")
def check_parity(candidate: Candidate) -> None:
    """The exported file is actually compared with the model, for several batch sizes, and agrees within the stated tolerance.

    This is tested with a decoder that never returns the same image twice: any comparison finds a difference.
    """
    with folder_to_write() as folder:
        parity = export(candidate, trained_of(), folder / f"model{candidate.cls.suffix}").parity
        expect(isinstance(parity, Parity), "Exported.parity", expected="a Parity", got=type(parity).__name__)
        sizes = sorted(parity.differences)
        expect(1 in sizes and len(sizes) > 1, "batch sizes compared", expected="1 and others", got=sizes)
        if parity.tolerance is not None:
            within = 0 <= parity.difference <= parity.tolerance
            expect(within, "the largest difference", expected=f"{parity.tolerance:g} at most", got=f"{parity.difference:g}")
        path = folder / f"erratic{candidate.cls.suffix}"
        try:
            parity = built(candidate).export(trained_of(decoder=Erratic()), "decoder", path).parity
        except ExportError:
            return
        expect(
            parity.tolerance is None and parity.difference > 1e-2,
            "a decoder that never returns the same image twice",
            expected="an ExportError, or a large difference reported without a tolerance",
            got=f"differences of {parity}",
        )


@check("exporter")
def check_failure(candidate: Candidate) -> None:
    """A failed export raises an `ExportError`, leaves no files behind, and preserves an existing file."""
    suffix = candidate.cls.suffix
    with folder_to_write() as folder:
        (folder / "file").write_bytes(OLDER)
        (folder / f"folder{suffix}").mkdir()
        before, trained = files_in(folder), trained_of()
        for what, path in (
            ("a place below a file", folder / "file" / f"model{suffix}"),
            ("a folder", folder / f"folder{suffix}"),
        ):
            expect_refused(refusal_of(candidate, trained, path), f"exporting to {what}")
            expect(
                files_in(folder) == before,
                f"files after exporting to {what}",
                expected="unchanged",
                got=sorted(files_in(folder)),
            )
    for what, decoder in (("a decoder that raises", Broken()), ("a decoder that differs from its file", Erratic())):
        with folder_to_write() as folder:
            path = folder / f"model{suffix}"
            path.write_bytes(OLDER)
            error = refusal_of(candidate, trained_of(decoder=decoder), path)
            if isinstance(decoder, Erratic) and error is None:
                continue  # a difference reported without a tolerance; see check_parity
            expect_refused(error, f"exporting {what}")
            files = files_in(folder)
            expect(files == {path.name: OLDER}, f"files after exporting {what}", expected="the older one", got=sorted(files))


@check("exporter")
def check_replacement(candidate: Candidate) -> None:
    """An existing file is replaced atomically, not overwritten in place, so programs can finish reading it."""
    with folder_to_write() as folder, folder_to_write() as elsewhere:
        path, kept = folder / f"model{candidate.cls.suffix}", elsewhere / "kept"
        path.write_bytes(OLDER)
        kept.hardlink_to(path)
        export(candidate, trained_of(), path)
        expect(
            path.read_bytes() != OLDER,
            "the file after exporting over an older one",
            expected="the new file",
            got="the older file",
        )
        expect(kept.read_bytes() == OLDER, "the older file, opened before", expected="unchanged", got="modified")


@check("exporter")
def check_determinism(candidate: Candidate) -> None:
    """Exports of the same model are identical byte for byte; exports of different weights are not."""
    contents = []
    for seed in (0, 0, 1):
        with folder_to_write() as folder:
            export(candidate, trained_of(seed=seed), folder / f"model{candidate.cls.suffix}")
            contents.append(files_in(folder))
    first, again, other = contents
    differing = [name for name in first if again.get(name) != first[name]]
    expect(first == again, "two exports of one model", expected="identical files", got=f"{', '.join(differing)} differ")
    expect(first != other, "exports of two models", expected="different files", got="identical ones")


@check("exporter")
def check_purity(candidate: Candidate) -> None:
    """Exporting changes neither the model nor torch's generator."""
    trained = trained_of()
    before = {name: tensor.clone() for name, tensor in trained.vae.state_dict().items()}
    generator = torch.get_rng_state()
    with folder_to_write() as folder:
        export(candidate, trained, folder / f"model{candidate.cls.suffix}")
    expect(
        torch.equal(generator, torch.get_rng_state()), "torch's generator after exporting", expected="unchanged", got="changed"
    )
    after = trained.vae.state_dict()
    changed = [
        name
        for name, tensor in before.items()
        if name not in after or after[name].dtype != tensor.dtype or not torch.equal(after[name], tensor)
    ]
    expect(not changed and before.keys() == after.keys(), "the weights after exporting", expected="unchanged", got=changed)
    training = [name for name, module in trained.vae.named_modules() if module.training]
    expect(not training, "modules in training mode after exporting", expected="none", got=", ".join(training))
