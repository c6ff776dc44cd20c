"""Sharing runs: the folder that is uploaded, and round trips through a Hub on this machine."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fake_hub import TOKEN, FakeHub, Repository, serving
from safetensors import safe_open

import vaekit
from vaekit import hub as client
from vaekit import roles
from vaekit.cli import main
from vaekit.errors import ExportError, HubError, UsageError, VaekitError
from vaekit.export.exporter import Exported
from vaekit.export.parity import Parity
from vaekit.export.parts import PartName
from vaekit.export.trained import Trained
from vaekit.run import Run
from vaekit.store.shared import SHARED_FORMATS

huggingface_hub = pytest.importorskip("huggingface_hub")
FILES = {
    *("README.md", "config.json", "decoder.json", "decoder.onnx", "evaluation.json", "metrics.jsonl", "model.safetensors"),
    *("samples.png", "training.gif"),
}


@pytest.fixture(scope="module")
def served() -> Iterator[FakeHub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def hub(served: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """An empty Hub, empty caches, and the token of its owner."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    for module in (constants, file_download):  # before version 1, both have the name
        address = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", address, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    served.repositories.clear()
    served.requests.clear()
    served.status = None
    return served


@pytest.fixture(scope="module")
def shared(labelled_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is uploaded of a run."""
    folder = tmp_path_factory.mktemp("shared") / "shapes"
    return Run(labelled_run).save_pretrained(folder, repo="ada/shapes", licence="CC-BY-4.0", reconstructions=True)


@pytest.fixture
def pushed(hub: FakeHub, shared: Path) -> FakeHub:
    """A Hub that holds a run, as if it had been uploaded."""
    hub.repositories["ada/shapes"] = repository = Repository(private=False)
    contents = {file.name: base64.b64encode(file.read_bytes()).decode() for file in shared.iterdir()}
    add = [{"key": "file", "value": {"path": name, "encoding": "base64", "content": text}} for name, text in contents.items()]
    repository.commit("main", add)
    return hub


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in vaekit.load(path).state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# The folder


def test_the_folder_holds_what_other_readers_look_for(shared: Path, labelled_run: Path) -> None:
    assert {path.name for path in shared.iterdir()} == FILES | {"reconstructions.png"}
    with safe_open(shared / "model.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"
    config = json.loads((shared / "config.json").read_text())
    spec = Run(labelled_run).spec.model_dump(mode="json")
    assert config["model"] == spec["model"]
    assert (shared / "reconstructions.png").read_bytes() == (labelled_run / "reconstructions" / "epoch-0003.png").read_bytes()


def test_the_card_is_read_by_the_library_of_the_hub(shared: Path, labelled_run: Path) -> None:
    card = huggingface_hub.ModelCard.load(shared / "README.md")
    data = card.data
    assert (data.library_name, data.license, data.model_name) == ("vaekit", "cc-by-4.0", "shapes")
    assert {"variational-autoencoder", "onnx", "gaussian", "kl", "array"} <= set(data.tags)
    evaluation = Run(labelled_run).evaluation()
    assert evaluation is not None
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found["kl"] == evaluation["kl"]
    assert found["ce_kl"] == evaluation["elbo"]  # of grey pixels, whose cross-entropy is no likelihood
    assert {result.dataset_split for result in data.eval_results} == {"test"}
    for text in ('vaekit.load("hf://ada/shapes")', "](samples.png)", "](reconstructions.png)", "cannot be resumed"):
        assert text in card.text


def test_nothing_that_is_shared_names_a_folder_of_this_machine(shared: Path, labelled_run: Path) -> None:
    private = str(labelled_run.parent).encode()
    assert private in (labelled_run / "model.safetensors").read_bytes()
    assert [path.name for path in shared.iterdir() if private in path.read_bytes()] == []
    assert json.loads((shared / "config.json").read_text())["data"]["dataset"]["path"] == "images.npz"


def test_a_shared_folder_is_a_run_that_is_evaluated_but_not_resumed(
    shared: Path, labelled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert equal(weights(shared), weights(labelled_run))
    copy = Path(shutil.copytree(shared, tmp_path / "copy"))
    monkeypatch.chdir(labelled_run.parent)  # where its data are
    before = Run(labelled_run).evaluation()
    assert Run(copy).evaluate() == before
    with pytest.raises(UsageError, match="cannot be resumed") as caught:
        vaekit.resume(copy)
    assert caught.value.remedy is not None
    command = caught.value.remedy.partition(": vaekit ")[2].split()
    assert main([*command, "--epochs", "1", "--quiet", "--out", str(tmp_path / "on")]) == 0
    assert len(Run(tmp_path / "on").metrics()) == 1


def test_losses_with_weights_of_their_own_are_shared(labelled_run: Path, tmp_path: Path) -> None:
    run = vaekit.train(labelled_run / "spec.yaml", loss="factor", epochs=1, pictures="none", out=tmp_path / "run")
    (run.path / "threshold.json").write_text("{}")
    folder = run.save_pretrained(tmp_path / "shared", exporters=())
    assert {"losses.safetensors", "model.safetensors", "threshold.json"} <= {path.name for path in folder.iterdir()}
    with safe_open(folder / "losses.safetensors", framework="pt") as file:
        assert not [name for name in file.keys() if name.startswith("vae.")]  # noqa: SIM118 - not a mapping
    config = json.loads((folder / "config.json").read_text())
    config["data"]["dataset"]["path"] = run.spec.model_dump(mode="json")["data"]["dataset"]["path"]
    (folder / "config.json").write_text(json.dumps(config))
    assert Run(folder).evaluate() == run.evaluation()
    again = Run(folder).save_pretrained(tmp_path / "again", exporters=())
    assert (again / "losses.safetensors").read_bytes() == (folder / "losses.safetensors").read_bytes()


def test_equal_runs_have_equal_folders(labelled_run: Path, shared: Path, tmp_path: Path) -> None:
    again = Run(labelled_run).save_pretrained(tmp_path / "shapes", exporters=(), reconstructions=True)
    different = {file.name for file in shared.iterdir() if not (again / file.name).is_file()}
    assert different == {"decoder.onnx", "decoder.json"}
    names = {file.name for file in again.iterdir()} - {"README.md"}
    assert [name for name in names if (again / name).read_bytes() != (shared / name).read_bytes()] == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda run, out: run.save_pretrained(out, exporters=["playgroud"]), "unknown exporter 'playgroud'"),
        (lambda run, out: run.save_pretrained(out, repo="shapes"), "not the name of a model on the Hub"),
        (lambda run, out: run.save_pretrained(run.path), "is not an empty folder"),
    ],
)
def test_a_folder_appears_whole_or_not_at_all(
    labelled_run: Path, tmp_path: Path, change: Callable[[Run, Path], Any], error: str
) -> None:
    with pytest.raises(UsageError, match=error):
        change(Run(labelled_run), tmp_path / "out" / "shared")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_decoder_that_cannot_be_exported_is_an_error_only_if_it_was_asked_for(
    labelled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ExportError("too large")

    monkeypatch.setattr(Run, "export", refuse)
    with pytest.warns(UserWarning, match="the decoder is not included as onnx: too large"):
        folder = Run(labelled_run).save_pretrained(tmp_path / "shared")
    assert "decoder.onnx" not in (folder / "README.md").read_text()
    with pytest.raises(ExportError, match="too large"):
        Run(labelled_run).save_pretrained(tmp_path / "other", exporters=["onnx"])


def test_info_of_an_exported_file(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(shutil.copy(shared / "decoder.onnx", tmp_path))
    assert main(["info", str(file)]) == 0
    out = capsys.readouterr().out
    inputs, outputs = "latent float32 batch×3", "image float32 batch×1×8×6"
    for text in (
        "intact",
        "decoder of a model of array",
        inputs,
        outputs,
        "equal to the model up to 1e-05",
        "onnx 18",
        "CC-BY-4.0",
    ):
        assert text in out
    assert main(["info", str(file), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["tolerance"], about["opset"], about["part"]) == (1e-5, {"onnx": 18}, "decoder")
    file.write_bytes(file.read_bytes()[:-200])
    assert main(["info", str(file)]) == 1
    assert main(["info", str(tmp_path / "none.onnx")]) == 1
    assert "export the model first" in capsys.readouterr().err


def test_the_playground_is_included_if_it_is_installed(
    labelled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Page(vaekit.Exporter):
        """A page."""

        suffix = ".html"

        def export(self, trained: Trained, part: PartName, path: Path) -> Exported:
            path.write_text(f"<p>{part}")
            return Exported(path, 3, Parity({1: 0.0}, None, 0.0))

    monkeypatch.setattr("vaekit.run.SHARED_FORMATS", tuple(kind for kind in SHARED_FORMATS if kind != "onnx"))
    with roles.exporters.temporarily(playground=Page):
        folder = Run(labelled_run).save_pretrained(tmp_path / "with")
    assert (folder / "decoder.html").read_text() == "<p>decoder"
    assert "`decoder.html`" in (folder / "README.md").read_text()
    folder = Run(labelled_run).save_pretrained(tmp_path / "without")
    assert not (folder / "decoder.html").exists()


# Round trips


def test_a_run_makes_a_round_trip(
    hub: FakeHub, labelled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--private", "--commit-message", "first", "--revision", "v1", "--export", "none"]
    assert main(["push", str(labelled_run), "ada/shapes", *given]) == 0
    repository = hub.repositories["ada/shapes"]
    commit = repository.branches["v1"]
    assert capsys.readouterr().out == f"{hub.url}/ada/shapes/commit/{commit}\n"
    assert repository.private
    assert repository.messages == ["first"]
    assert set(repository.files("v1")) == FILES - {"decoder.onnx", "decoder.json"}
    assert set(repository.files()) == set()

    hub.requests.clear()
    assert equal(weights(Path("hf://ada/shapes@v1")), weights(labelled_run))
    run = Run("hf://ada/shapes", revision="v1")
    assert run.path.name == commit
    fetched = {request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request}
    assert fetched == {"config.json", "evaluation.json", "metrics.jsonl", "model.safetensors"}
    monkeypatch.chdir(labelled_run.parent)
    assert run.evaluate() == Run(labelled_run).evaluation()
    assert (tmp_path / "cache" / "hub" / "models--ada--shapes").is_dir()
    assert run.path.parent == tmp_path / "cache" / "vaekit" / "hub" / "ada--shapes"


def test_commands_take_a_run_on_the_hub(
    pushed: FakeHub, labelled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(labelled_run.parent)
    name, train = "hf://ada/shapes", ["--epochs", "1", "--quiet", "--pictures", "none"]

    def call(*arguments: str) -> str:
        capsys.readouterr()
        assert main([*arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    folder = Path(call("sample", name, "--num", "4").strip()).parents[1]
    assert folder.is_relative_to(tmp_path)
    assert call("reconstruct", name, "0", "1").startswith(str(folder))
    assert call("interpolate", name, "0", "1").startswith(str(folder))
    call("export", "--torch", name)
    assert (folder / "decoder.pt2").is_file()
    call("compare", name, str(labelled_run), "--num", "2", "--out", str(tmp_path / "compare.png"))
    assert call("info", name).splitlines()[:2] == [f"hub         {name}", f"run         {folder}"]
    assert "@inproceedings{" in call("cite", name)
    call("train", name, "--init", name, "--out", str(tmp_path / "on"), *train)
    assert equal_to_init(tmp_path / "on", labelled_run)
    on = Run(tmp_path / "on").save_pretrained(tmp_path / "base", exporters=())
    assert huggingface_hub.ModelCard.load(on / "README.md").data.base_model == "ada/shapes"
    call("fit-prior", name, "--prior", "mixture", "--out", str(tmp_path / "prior"), *train)
    assert Run(tmp_path / "prior").spec.model.prior.kind == "mixture"
    assert main(["resume", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: hf://ada/shapes cannot be resumed")  # and there are no bars of progress, but in a terminal
    assert f"vaekit train {name} --init {name}" in error


def equal_to_init(path: Path, run: Path) -> bool:
    """Whether a run records the digest of another run's weights as that of its initial weights."""
    from vaekit.store.checkpoint import digest_of

    return Run(path).header.init == digest_of({}, dict(sorted(weights(run).items()))) is not None


def test_a_second_upload_replaces_what_the_first_had_and_keeps_other_files(pushed: FakeHub, labelled_run: Path) -> None:
    repository = pushed.repositories["ada/shapes"]
    repository.commit("main", [{"key": "file", "value": {"path": "notes.txt", "encoding": "base64", "content": ""}}])
    assert "reconstructions.png" in repository.files()
    Run(labelled_run).push_to_hub("hf://ada/shapes", exporters=())
    assert set(repository.files()) == {*FILES, "notes.txt"} - {"decoder.onnx", "decoder.json"}


def test_a_run_that_was_fetched_needs_no_connection(pushed: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Run("hf://ada/shapes")
    (first.path / "note.txt").write_text("stays")
    before = len(pushed.requests)
    assert (Run("hf://ada/shapes", local_files_only=True).path / "note.txt").read_text() == "stays"
    assert len(pushed.requests) == before
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert equal(weights(Path("hf://ada/shapes")), weights(first.path))


def test_the_cache_is_where_it_is_asked_for(pushed: FakeHub, tmp_path: Path) -> None:
    run = Run("hf://ada/shapes", cache_dir=tmp_path / "mine")
    assert run.path.is_relative_to(tmp_path / "mine")
    assert not (tmp_path / "cache").exists()
    vaekit.load("hf://ada/shapes", cache_dir=tmp_path / "mine", local_files_only=True)


def test_writing_to_a_run_leaves_the_shared_cache_as_it_was(
    pushed: FakeHub, labelled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("hf://ada/shapes")
    (blobs,) = (tmp_path / "cache" / "hub").glob("models--*/blobs")
    before = {blob.name: blob.read_bytes() for blob in blobs.iterdir()}
    monkeypatch.chdir(labelled_run.parent)
    run.folder.evaluation.unlink()
    run.evaluate()
    run.folder.append_metrics({"epoch": 4})
    assert {blob.name: blob.read_bytes() for blob in blobs.iterdir()} == before


# Errors


@pytest.mark.parametrize(
    ("name", "given", "message", "more"),
    [
        ("hf://ada/nothing", {}, "there is no model hf://ada/nothing", "if it is private, log in"),
        ("hf://ada/shapes@v9", {}, "hf://ada/shapes has no revision 'v9'", "a branch, a tag or a commit"),
        ("hf://ada/shapes@v1", {"revision": "v2"}, "two revisions are given", "leave one"),
        ("hf://ada/secret", {"token": "hf_of_another"}, "there is no model hf://ada/secret, or it is private", "401"),
        ("hf://shapes", {}, "not the name of a model on the Hub", "hf://user/name"),
        ("hf://datasets/ada/shapes", {}, "not the name of a model on the Hub", "hf://user/name"),
        ("hf://ada/a--b..c", {}, "cannot be the name of a model", "hf://user/name"),
        ("hf://ada/other", {}, "hf://ada/other is not a vaekit run", "a config.json of another library"),
        ("hf://ada/empty", {}, "hf://ada/empty is not a vaekit run", "a repository without config.json"),
        ("hf://ada/new", {"local_files_only": True}, "is not in the local cache", "without local_files_only"),
        ("runs/1", {"revision": "v1"}, "only a run on the Hub has revisions", "runs/1"),
    ],
)
def test_names_that_cannot_be_loaded(pushed: FakeHub, name: str, given: dict[str, Any], message: str, more: str) -> None:
    pushed.repositories |= {f"ada/{other}": Repository(private=other == "secret") for other in ("secret", "other", "empty")}
    file = {"path": "config.json", "encoding": "base64", "content": "eyJtb2RlbF90eXBlIjogImJlcnQifQ=="}
    pushed.repositories["ada/other"].commit("main", [{"key": "file", "value": file}])
    for function in (vaekit.load, Run):
        with pytest.raises(VaekitError) as caught:
            function(name, **given)
        assert message in caught.value.message
        assert more in str(caught.value)
    assert not [request for request in pushed.requests if request.startswith("GET") and "other/resolve" in request][2:]


def test_without_a_token_nothing_is_exported(hub: FakeHub, labelled_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(Run, "export", lambda *_: pytest.fail("exported"))
    with pytest.raises(UsageError, match="needs a token") as caught:
        Run(labelled_run).push_to_hub("ada/shapes")
    assert "hf auth login" in str(caught.value)
    assert hub.requests == []


def test_uploads_that_are_refused(pushed: FakeHub, shared: Path) -> None:
    with pytest.raises(HubError, match="token is missing, invalid, or lacks permission") as caught:
        client.upload(shared, client.repository("ada/shapes"), token="hf_of_another")
    assert "401" in str(caught.value)
    with pytest.raises(HubError, match="token is missing, invalid, or lacks permission") as caught:
        client.upload(shared, client.repository("eve/shapes"))
    assert "403 You don't have the rights" in str(caught.value)
    with pytest.raises(HubError, match="hf://ada/shapes already exists and is public"):
        client.upload(shared, client.repository("ada/shapes"), private=True)
    pushed.status = 503
    with pytest.raises(HubError, match="the Hub refused the request") as caught:
        client.upload(shared, client.repository("ada/shapes"))
    assert caught.value.remedy == "try again later"


def test_a_hub_that_cannot_be_reached(hub: FakeHub, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for function in (vaekit.load, lambda name: client.upload(shared, client.repository(name))):
        with pytest.raises(HubError, match="the Hub cannot be reached") as caught:
            function("hf://ada/shapes")
        assert "http://127.0.0.1:9" in str(caught.value)


def test_without_the_library_the_error_names_the_extra(
    labelled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for function in (
        lambda: vaekit.load("hf://ada/shapes"),
        lambda: Run(labelled_run).push_to_hub("ada/shapes"),
        lambda: Run(labelled_run).save_pretrained(tmp_path / "out"),
    ):
        with pytest.raises(UsageError) as caught:
            function()
        assert caught.value.remedy == 'pip install "vaekit[hub]"'


def test_a_file_that_was_changed_on_the_way_is_refused(pushed: FakeHub) -> None:
    files = pushed.repositories["ada/shapes"].files()
    content = bytearray(files["model.safetensors"])
    content[-1] ^= 1
    files["model.safetensors"] = bytes(content)
    with pytest.raises(VaekitError, match="is damaged"):
        vaekit.load("hf://ada/shapes")


@pytest.mark.slow
def test_processes_share_a_run_by_the_environment_alone(hub: FakeHub, labelled_run: Path, tmp_path: Path) -> None:
    """As users do: HF_ENDPOINT, HF_HOME and HF_TOKEN are read by `huggingface_hub` when it is imported."""
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "PYTHONPATH": root}

    def call(*arguments: str) -> str:
        command = [sys.executable, "-m", "vaekit", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=labelled_run.parent)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert call("push", str(labelled_run), "ada/shapes").startswith(hub.url)
    elbo = json.loads(call("evaluate", "hf://ada/shapes", "--json"))["elbo"]
    evaluation = Run(labelled_run).evaluation()
    assert evaluation is not None
    assert elbo == evaluation["elbo"]


def test_metadata_of_the_card_are_yaml(shared: Path) -> None:
    head = (shared / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(head)["model-index"][0]["name"] == "shapes"
