"""The two files of ONNX Runtime Web in a page, pinned by version and hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from vaekit.errors import ExportError

VERSION = "1.24.3"
MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
HASHES = {
    MODULE: "9f716d6e3c4280dcced6f0fcb9814c1d7630de83d8177880a2ef445fe48ca913",
    WASM: "be0e129949062ad50290ef94683fac8be5bb6156f709e030b7a5f1661a2f6c17",
}
"""SHA-256 of each file, as in the npm package onnxruntime-web of that version."""
TIMEOUT = 300
"""Timeout for npm's download of 24 MB, in seconds."""
REMEDY = (
    f"run `npm pack onnxruntime-web@{VERSION}` on a machine with a network connection, unpack the archive, and give its folder "
    "package/dist: --runtime package/dist"
)


def load(folder: str | None = None) -> dict[str, bytes]:
    """Return the verified runtime files by name.

    Args:
        folder: Folder with the files; default: the user's cache folder, to which npm downloads them the first time.

    Raises:
        ExportError: A file is missing and cannot be downloaded, or its hash differs from the recorded one.
    """
    if folder is not None:
        return _checked(Path(folder).expanduser())
    place = cache()
    if not all((place / name).is_file() for name in HASHES):
        _fetch(place)
    return _checked(place)


def cache() -> Path:
    """Return the download folder, in XDG_CACHE_HOME or else ~/.cache."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "vaekit" / f"onnxruntime-web-{VERSION}"


def _checked(folder: Path) -> dict[str, bytes]:
    files = {}
    for name, expected in HASHES.items():
        file = folder / name
        try:
            files[name] = file.read_bytes()
        except OSError as error:
            raise ExportError(f"cannot read {file}", given=error.strerror, remedy=REMEDY) from None
        _check(file, files[name], expected)
    return files


def _check(file: Path | str, content: bytes, expected: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ExportError(
            f"{file} is not that of onnxruntime-web {VERSION}: it was modified or belongs to another version",
            given=f"SHA-256 {found}",
            expected=expected,
            remedy=f"delete it; {REMEDY}",
        )


def _fetch(place: Path) -> None:
    """Download the package with npm, and keep the two required files."""
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError("the page needs ONNX Runtime Web, but npm is not installed to download it", remedy=REMEDY)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = [npm, "pack", "--ignore-scripts", "--silent", f"onnxruntime-web@{VERSION}"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False)
            reason = " ".join(done.stderr.split())[-300:] or f"npm ended with {done.returncode}"
        except subprocess.TimeoutExpired:
            reason = f"npm took more than {TIMEOUT} s"
        archives = list(folder.glob("*.tgz"))
        if len(archives) != 1:
            raise ExportError(f"npm could not download onnxruntime-web {VERSION}", given=reason, remedy=REMEDY)
        for name, expected in HASHES.items():
            content = _read(archives[0], f"package/dist/{name}")
            _check(name, content, expected)
            (folder / name).write_bytes(content)
        try:
            place.mkdir(parents=True, exist_ok=True)
            for name in HASHES:
                part = place / f".{name}.{os.getpid()}"
                shutil.copyfile(folder / name, part)
                part.replace(place / name)  # atomically, so that no other process reads half a file
        except OSError as error:
            raise ExportError(f"cannot write {place}", given=error.strerror, remedy="set XDG_CACHE_HOME") from None


def _read(archive: Path, member: str) -> bytes:
    try:
        with tarfile.open(archive) as files:
            file = files.extractfile(member)
            return file.read() if file is not None else b""
    except (KeyError, tarfile.TarError, OSError) as error:
        raise ExportError(f"the package onnxruntime-web {VERSION} has no {member}", given=error, remedy=REMEDY) from None
