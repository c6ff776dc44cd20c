"""The page is self-contained, embeds the verified models, and accepts only the recorded runtime; no browser is needed."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from vaekit_playground import page, runtime

import vaekit
from vaekit.errors import ExportError, UsageError
from vaekit.export.reading import OnnxFile
from vaekit.testing import checks
from vaekit.testing.exporters import trained_of

CONTENT = {name: f"content of {name} </script>".encode() for name in runtime.HASHES}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("playground")
    images = np.random.default_rng(0).integers(0, 255, (120, 6, 5, 3)).astype(np.uint8)
    np.savez(folder / "images.npz", images=images)
    hidden = {"encoder.hidden": (8,), "decoder.hidden": (8,)}
    training = {"epochs": 1, "batch_size": 40, "threads": 1, "device": "cpu", "latent_dim": 3, "pictures": "none"}
    data = {"dataset": "array", "dataset.path": str(folder / "images.npz")}
    return vaekit.train(**hidden, **training, **data, out=folder / "run")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder of short files that pass for the runtime."""
    monkeypatch.setattr(runtime, "HASHES", {name: hashlib.sha256(text).hexdigest() for name, text in CONTENT.items()})
    folder = tmp_path / "files"
    folder.mkdir()
    for name, text in CONTENT.items():
        (folder / name).write_bytes(text)
    return folder


@pytest.mark.parametrize("check", checks("exporter"))
def test_playground_conforms(files, check):
    check("playground", options={"runtime": str(files), "encoder": False})


@pytest.mark.parametrize("shape", [(7,), (2, 9), (1, 3, 5, 4), (2, 6, 5)], ids=str)
def test_data_other_than_pictures_are_refused(files, tmp_path, shape):
    with pytest.raises(ExportError, match=rf"grey and RGB images\n.*{re.escape(str(shape))}"):
        vaekit.exporters.get("playground")(runtime=str(files)).export(trained_of(shape), "decoder", tmp_path / "a.html")


class Page(HTMLParser):
    """Reads a page's elements, and the content of its scripts by id."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.ids = [], {}, set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.ids.add(dict(attrs).get("id"))

    def handle_data(self, data):
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if tag == "script":
            self.scripts[attributes.get("id")] = self.scripts.get(attributes.get("id"), "") + data


def unpacked(script):
    return gzip.decompress(base64.b64decode(script))


def test_the_page_is_a_single_self_contained_file(run, files, tmp_path):
    exported = run.export("playground", out=tmp_path / "out" / "page.html", runtime=str(files))
    assert [file.name for file in exported.path.parent.iterdir()] == ["page.html"]
    text = exported.path.read_text("utf-8")
    assert exported.size == exported.path.stat().st_size == len(text.encode())
    parsed = Page(text)
    for tag, attributes in parsed.elements:
        assert not {"src", "href", "srcset", "action", "data"} & attributes.keys(), (tag, attributes)
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}
    assert not re.search(r"https?://|url\(|@import|\bfetch\(", text)
    [policy] = [a["content"] for tag, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert str(tmp_path) not in text


def test_the_page_carries_the_runtime_and_verified_models_with_their_metadata(run, files, tmp_path):
    exported = run.export("playground", out=tmp_path / "page.html", runtime=str(files), licence="CC0 </script><b>&")
    scripts = Page(exported.path.read_text("utf-8")).scripts
    assert unpacked(scripts["module"]) == CONTENT[runtime.MODULE]
    assert unpacked(scripts["wasm"]) == CONTENT[runtime.WASM]
    about = json.loads(scripts["about"])
    for part in ("decoder", "encoder"):
        file = tmp_path / f"{part}.onnx"
        file.write_bytes(unpacked(scripts[part]))
        assert about[part] == OnnxFile(file).metadata
        assert about[part]["licence"] == "CC0 </script><b>&"
    assert about["decoder"]["data_shape"] == [3, 6, 5]
    assert about["draws"] is None
    assert exported.parity.difference <= 1e-5
    assert [note.split(":")[0] for note in exported.notes] == ["encoder"]


def test_a_page_without_an_encoder(run, files, tmp_path):
    exported = run.export("playground", out=tmp_path / "page.html", runtime=str(files), encoder=False)
    scripts = Page(exported.path.read_text("utf-8")).scripts
    assert "encoder" not in scripts
    assert "encoder" not in json.loads(scripts["about"])
    assert exported.notes == ()


def test_two_exports_are_equal(run, files, tmp_path):
    paths = [run.export("playground", out=tmp_path / name, runtime=str(files)).path for name in ("a.html", "b.html")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_every_element_that_the_program_names_is_in_the_template():
    program = (Path(page.__file__).parent / "page.js").read_text("utf-8")
    ids = Page(page.assemble("", {}, {"module": b"", "wasm": b"", "decoder": b"", "encoder": b""})).ids
    named = set(re.findall(r'\$\("([\w-]+)"\)', program))
    assert named
    assert named <= ids


def test_values_are_escaped_and_not_parsed_as_template():
    text = page.assemble("<b>{{style}}", {"x": "</script><!--\u2028{{title}}"}, {})
    assert "&lt;b&gt;{{style}}</title>" in text
    parsed = Page(text)
    assert json.loads(parsed.scripts["about"]) == {"x": "</script><!--\u2028{{title}}"}
    assert "<!--" not in parsed.scripts["about"]


@pytest.mark.parametrize("name", list(runtime.HASHES))
def test_an_altered_runtime_is_refused_and_no_page_written(run, files, tmp_path, name):
    (files / name).write_bytes(CONTENT[name] + b" ")
    with pytest.raises(ExportError, match=rf"{re.escape(name)} is not that of onnxruntime-web(.|\n)*npm pack"):
        run.export("playground", out=tmp_path / "page.html", runtime=str(files))
    assert not (tmp_path / "page.html").exists()


def test_a_folder_without_the_runtime_is_an_error(tmp_path):
    with pytest.raises(ExportError, match=r"cannot read .*ort\.wasm(.|\n)*npm pack onnxruntime-web@"):
        runtime.load(str(tmp_path))


def test_the_cache_is_used_and_verified(files, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ExportError, match=r"npm is not installed(.|\n)*--runtime"):
        runtime.load()
    runtime.cache().parent.mkdir()
    files.rename(runtime.cache())
    assert runtime.load() == CONTENT
    (runtime.cache() / runtime.WASM).write_bytes(b"other")
    with pytest.raises(ExportError, match="modified"):
        runtime.load()


@pytest.mark.parametrize("content", ["true", "altered", "absent", "failure"])
def test_npm_fills_the_cache_with_verified_files_only(files, tmp_path, monkeypatch, content):
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    copied = f"mkdir -p package/dist && cp {files}/* package/dist"
    commands = {
        "true": f"{copied} && tar czf o.tgz package",
        "altered": f"{copied} && echo >> package/dist/{runtime.WASM} && tar czf o.tgz package",
        "absent": "mkdir package && tar czf o.tgz package",
        "failure": "echo no network >&2; exit 1",
    }
    program.write_text(f"#!/bin/sh\n{commands[content]}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if content == "true":
        assert runtime.load() == CONTENT
        assert sorted(file.name for file in runtime.cache().iterdir()) == sorted(CONTENT)
        return
    message = {"altered": "is not that of", "absent": "has no package/dist", "failure": r"could not download(.|\n)*no network"}
    with pytest.raises(ExportError, match=message[content]):
        runtime.load()
    assert not runtime.cache().exists()


def test_other_parts_are_refused(run, files, tmp_path):
    with pytest.raises(UsageError, match="shows the decoder"):
        run.export("playground", part="encoder", out=tmp_path / "page.html", runtime=str(files))
