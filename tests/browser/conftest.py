"""A browser, programs that drive it, and a server of pages."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def install(folder: Path, what: str) -> None:
    """Install the packages that a folder's package.json names; skip the test where npm is not there, or cannot fetch them."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("node and npm are not installed")
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"{what} cannot be installed: {done.stderr[-300:]}")


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed: {', '.join(BROWSERS)}")
    return found


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs that drive the browser, and what they need."""
    folder = tmp_path_factory.mktemp("drivers")
    for file in (HERE / "package.json", *HERE.glob("*.mjs")):
        shutil.copy(file, folder)
    install(folder, "playwright-core")
    return folder


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example of a page, with onnxruntime-web."""
    folder = Path(shutil.copytree(HERE.parents[1] / "examples" / "onnx_web", tmp_path_factory.mktemp("example") / "example"))
    install(folder, "onnxruntime-web")
    return folder


@pytest.fixture(scope="module")
def drive(browser: str, drivers: Path) -> Callable[..., Any]:
    """Runs one of the programs on a page; returns what it wrote down."""

    def run(program: str, address: str, *arguments: str) -> Any:
        result = drivers / "result.json"
        command = ["node", program, browser, address, *arguments, str(result)]
        subprocess.run(command, cwd=drivers, check=True, timeout=240)
        return json.loads(result.read_text("utf-8"))

    return run


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def serve() -> Callable[[Path], AbstractContextManager[str]]:
    """Serves a folder within a context, which returns its address."""

    @contextmanager
    def serve(folder: Path) -> Iterator[str]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            server.server_close()

    return serve
