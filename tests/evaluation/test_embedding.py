"""Codes of examples: what they are for every posterior, and that they do not depend on how the examples are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_parts

import vaekit
from vaekit import roles
from vaekit.data import Batches, TensorImages
from vaekit.data.facts import Facts
from vaekit.distributions import kl_per_dim
from vaekit.errors import DataError, UsageError
from vaekit.evaluation import embedding
from vaekit.evaluation.embedding import Embedding, embed, joined
from vaekit.model.assembly import build_vae
from vaekit.specs.options import build_spec
from vaekit.streams import Streams

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
"""Matrix products of batches of other sizes are rounded otherwise."""
WITHOUT_STD = {"bottom_up", "delta", "fsq", "iaf", "ladder", "planar", "poincare", "power_spherical", "radial", "residual_vq"}
WITHOUT_STD |= {"vmf", "vq"}


@pytest.fixture(scope="module")
def run(labelled_run: Path) -> vaekit.Run:
    return vaekit.Run(labelled_run)


def equal(one: Embedding, other: Embedding) -> None:
    assert one.columns.keys() == other.columns.keys()
    for name, values in one.columns.items():
        compare = np.testing.assert_allclose if values.dtype.kind == "f" else np.testing.assert_array_equal
        compare(values, other.columns[name], **(CLOSE if values.dtype.kind == "f" else {}), err_msg=name)


def test_codes_of_a_gaussian_are_its_means_with_the_numbers_of_the_evaluation(run: vaekit.Run) -> None:
    codes, test = run.embed(), run.splits.test
    q = run.vae().encode(test.gather(torch.arange(len(test))) / 255)
    np.testing.assert_allclose(codes.z, q.mu, **CLOSE)
    np.testing.assert_allclose(codes.std, torch.exp(0.5 * q.logvar), **CLOSE)
    evaluation = run.evaluation()
    assert evaluation is not None
    assert codes.kl is not None
    assert codes.kl.mean() == pytest.approx(evaluation["kl"], rel=1e-5)
    np.testing.assert_allclose(codes.kl_per_latent.mean(0), evaluation["kl_per_latent"], rtol=1e-5)
    np.testing.assert_array_equal(codes.label, test.labels)
    np.testing.assert_array_equal(codes.class_name, np.array(["left", "middle", "right/far"])[codes.label])
    assert codes.row.tolist() == list(range(len(test)))
    assert codes.file is None
    assert {name: values.dtype.name for name, values in codes.columns.items() if values.dtype.kind == "f"} == dict.fromkeys(
        ["z", "std", "kl", "kl_per_latent"], "float32"
    )


@pytest.mark.parametrize("sample", [False, True])
def test_codes_do_not_depend_on_the_size_of_a_batch(run: vaekit.Run, sample: bool) -> None:
    whole = run.embed(split="train", sample=sample)
    for size in (1, 7, 64):
        equal(run.embed(split="train", sample=sample, batch_size=size), whole)


def test_draws_have_the_spread_of_the_posteriors_and_a_seed(run: vaekit.Run) -> None:
    means, draws, again = (run.embed(split="train", sample=sample) for sample in (False, True, True))
    noise = (draws.z - means.z) / means.std
    assert noise.mean() == pytest.approx(0, abs=5 / noise.size**0.5)
    assert noise.std() == pytest.approx(1, abs=5 / (2 * noise.size) ** 0.5)
    assert len(np.unique(noise[:, 0])) == len(noise)
    np.testing.assert_array_equal(draws.z, again.z)
    assert not np.allclose(run.embed(split="train", sample=True, seed=1).z, draws.z)


@pytest.mark.parametrize("kind", roles.posteriors.kinds())
def test_every_posterior_has_codes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "ROWS", 8)  # so that batches begin and end within a block of noise
    spec = build_spec({}, {**small_parts({"encoder": "mlp", "decoder": "mlp", "posterior": kind}), "latent_dim": 4})
    vae = build_vae(spec.model, Facts(data_shape=(1, 8, 6)), seed=0).eval().requires_grad_(False)
    source = TensorImages(torch.rand(13, 1, 8, 6, generator=torch.Generator().manual_seed(0)))

    def codes(size: int, *, sample: bool = False) -> Embedding:
        batches = Batches(source, batch_size=size, streams=Streams(0), train=False, split="test")
        return joined([*embed(vae, batches, Streams(0), sample=sample)])

    whole = codes(13)
    np.testing.assert_allclose(whole.z, vae.encode(source.images).mean, **CLOSE)
    assert all(np.isfinite(values).all() for values in whole.columns.values())
    for size in (1, 5):
        equal(codes(size), whole)
        equal(codes(size, sample=True), codes(13, sample=True))

    q = vae.encode(source.images[:2])
    noise = vae.posterior.draw_noise(8192, torch.Generator().manual_seed(0), like=source.images).unflatten(0, (4096, 2))
    assert (whole.std is None) == (kind in WITHOUT_STD)
    if whole.std is not None:
        np.testing.assert_allclose(whole.std[:2], q.rsample(noise).std(0), rtol=0.1)
    assert (whole.kl is None) == (kind == "delta")
    if whole.kl_per_latent is not None:
        np.testing.assert_allclose(whole.kl_per_latent.sum(-1), whole.kl, rtol=1e-4, atol=1e-5)
    if whole.kl is not None:
        monte_carlo = vae.trace_from(q, noise, source.images[:2], decode=False).site
        terms = monte_carlo.log_q - monte_carlo.log_p
        closed = kl_per_dim(q, vae.prior(vae)) is not None
        error = 5 * terms.std(0) * (1 / 4096 + (0 if closed else 1 / embedding.DRAWS)) ** 0.5
        assert (torch.from_numpy(whole.kl[:2]) - terms.mean(0)).abs().le(error + 1e-4).all()


def test_a_kl_without_a_closed_form_is_estimated_from_several_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = build_spec({}, {**small_parts({"encoder": "mlp", "decoder": "mlp", "prior": "mixture"}), "latent_dim": 2})
    vae = build_vae(spec.model, Facts(data_shape=(1, 8, 6)), seed=0).eval().requires_grad_(False)
    source = TensorImages(torch.rand(200, 1, 8, 6))

    def error(draws: int) -> float:
        monkeypatch.setattr(embedding, "DRAWS", draws)
        batches = Batches(source, batch_size=200, streams=Streams(0), train=False, split="test")
        codes = joined([*embed(vae, batches, Streams(0))])
        assert codes.kl_per_latent is None
        return float(np.abs(codes.kl - exact).mean())

    exact: float | np.ndarray = 0.0
    monkeypatch.setattr(embedding, "DRAWS", 512)
    batches = Batches(source, batch_size=200, streams=Streams(1), train=False, split="test")
    exact = joined([*embed(vae, batches, Streams(1))]).kl
    assert error(64) < 0.6 * error(4)


def test_other_data_are_read_as_those_of_the_run_and_in_their_order(run: vaekit.Run, tmp_path: Path) -> None:
    path = Path(run.spec.data.dataset.path)
    with np.load(path) as file:
        images, names = file["images"], file["labels"]
    codes = run.embed(path)
    expected = run.vae().encode(torch.from_numpy(images)[:, None] / 255).mean
    np.testing.assert_allclose(codes.z, expected, **CLOSE)
    assert codes.class_name.tolist() == names.tolist()
    np.save(tmp_path / "images.npy", images)
    alone = run.embed(tmp_path / "images.npy")
    np.testing.assert_array_equal(alone.z, codes.z)
    assert alone.label is None
    assert alone.class_name is None
    array = run.embed(images, labels=names)
    equal(array, codes)
    np.savez(tmp_path / "split.npz", x_train=images[:30], x_test=images[30:50])
    np.testing.assert_allclose(run.embed(tmp_path / "split.npz").z, expected[30:50], **CLOSE)
    np.testing.assert_allclose(run.embed(tmp_path / "split.npz", split="train").z, expected[:30], **CLOSE)


def test_classes_have_the_numbers_of_the_model_where_it_knows_their_names(run: vaekit.Run) -> None:
    images = np.zeros((4, 8, 6), np.uint8)
    few = run.embed(images, labels=np.array(["right/far", "middle", "middle", "right/far"]))
    assert few.label.tolist() == [2, 1, 1, 2]
    others = run.embed(images, labels=np.array(["right/far", "new", "new", "a"]))
    assert others.label.tolist() == [2, 1, 1, 0]
    assert others.class_name.tolist() == ["right/far", "new", "new", "a"]


def test_a_conditional_model_takes_its_condition_from_the_data(run: vaekit.Run, tmp_path: Path) -> None:
    options = {"condition": "label", "epochs": 1, "latent_dim": 2, "batch_size": 64, "pictures": "none"}
    small, named = small_parts({"encoder": "mlp", "decoder": "mlp"}), {"dataset.key": "images", "dataset.labels": "labels"}
    conditional = vaekit.train({"data": run.spec.data.model_dump()}, **small, **options, **named, out=tmp_path / "run")
    with np.load(run.spec.data.dataset.path) as file:
        images, names = file["images"][:6], file["labels"][:6]
    vae = conditional.vae()
    np.save(tmp_path / "images.npy", images)  # which has no names, unlike the arrays of the run's file
    with pytest.raises(UsageError, match="no labels are given"):
        conditional.embed(tmp_path / "images.npy")
    expected = vae.encode(torch.from_numpy(images)[:, None] / 255, torch.arange(6) % 3).mean
    np.testing.assert_allclose(conditional.embed(images, labels=names).z, expected, **CLOSE)
    np.testing.assert_allclose(conditional.embed(images[1:], labels=names[1:]).z, expected[1:], **CLOSE)
    np.testing.assert_allclose(conditional.embed(images[2:3], labels=np.array([2])).z, expected[2:3], **CLOSE)
    with pytest.raises(UsageError, match="no labels are given"):
        conditional.embed(images)
    with pytest.raises(DataError, match=r"does not know all classes[\s\S]*somewhere[\s\S]*left, middle, right/far"):
        conditional.embed(images[:1], labels=np.array(["somewhere"]))
    with pytest.raises(DataError, match=r"does not know all classes[\s\S]*numbers 3"):
        conditional.embed(images[:1], labels=np.array([3]))


def pictures(folder: Path, size: tuple[int, int], num: int = 12) -> list[Path]:
    rng, files = np.random.default_rng(0), []
    for i in range(num):
        files.append(folder / "ab"[i % 2] / f"{i}.png")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, size[::-1], dtype=np.uint8)).save(files[-1])
    return sorted(files)


def test_image_files_are_named_and_those_of_another_size_are_fitted_or_refused(run: vaekit.Run, tmp_path: Path) -> None:
    files = pictures(tmp_path / "same", (6, 8))
    codes = run.embed(tmp_path / "same")
    assert codes.file.tolist() == [str(file) for file in files]
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(file)))[None] / 255 for file in files])
    np.testing.assert_allclose(codes.z, run.vae().encode(pixels).mean, **CLOSE)
    assert codes.class_name.tolist() == ["a"] * 6 + ["b"] * 6

    pictures(tmp_path / "other", (12, 16))
    with pytest.raises(DataError, match=r"\(1, 16, 12\)[\s\S]*\(1, 8, 6\)[\s\S]*--fit"):
        run.embed(tmp_path / "other")
    assert run.embed(str(tmp_path / "other"), fit="crop").z.shape == (12, 3)


def test_files_of_a_run_on_a_folder_are_named_whether_they_are_kept_in_memory_or_not(tmp_path: Path) -> None:
    files = pictures(tmp_path / "set", (6, 8), num=20)
    data = {"dataset": "folder", "dataset.path": str(tmp_path / "set"), "dataset.size": (4, 4), "dataset.channels": "grey"}
    small = small_parts({"encoder": "mlp", "decoder": "mlp"})
    run = vaekit.train(**data, **small, epochs=1, latent_dim=2, pictures="none", out=tmp_path / "run")
    whole = run.embed(tmp_path / "set")
    assert whole.file.tolist() == [str(file) for file in files]
    test = run.embed()
    assert run.splits.test.subset(torch.tensor([1, 0])).names == [test.file[1], test.file[0]]
    place = {name: i for i, name in enumerate(whole.file.tolist())}
    np.testing.assert_allclose(test.z, whole.z[[place[name] for name in test.file]], **CLOSE)
    streamed = vaekit.train(run.path / "spec.yaml", **{"dataset.memory_gb": 0.0}, workers=0, out=tmp_path / "streamed")
    assert streamed.embed().file.tolist() == test.file.tolist()


def test_data_that_do_not_fit_are_refused(run: vaekit.Run, tmp_path: Path) -> None:
    images = np.zeros((4, 8, 6), np.uint8)
    with pytest.raises(DataError, match=r"do not have the shape[\s\S]*\(1, 6, 8\)[\s\S]*\(1, 8, 6\)"):
        run.embed(images.transpose(0, 2, 1))
    with pytest.raises(DataError, match=r"values in \[0, 1\][\s\S]*0 to 7"):
        run.embed(7 * np.ones((4, 8, 6), np.float32) * (np.arange(4) % 2)[:, None, None])
    with pytest.raises(UsageError, match=r"do not have this split[\s\S]*extra[\s\S]*train, validation, test"):
        run.embed(split="extra")
    with pytest.raises(DataError, match=r"do not exist[\s\S]*digits"):
        run.embed("nowhere")
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(UsageError, match=r"unknown file format[\s\S]*\.npy"):
        run.embed(tmp_path / "data.csv")
    with pytest.raises(DataError, match="missing"):
        run.embed(np.full((4, 8, 6), np.nan, np.float32))
    for options in ({"fit": "crop"}, {"data": images, "fit": "crop"}, {"data": "digits", "fit": "crop"}):
        with pytest.raises(UsageError, match="fitted"):
            run.embed(**options)
    with pytest.raises(UsageError, match=r"unknown way to fit images[\s\S]*squeeze[\s\S]*crop, pad, stretch"):
        run.embed("digits", fit="squeeze")
    with pytest.raises(UsageError, match="labels can be given only with an array"):
        run.embed(labels=np.arange(4))


def test_a_table_holds_the_arrays_and_a_npy_file_the_codes(run: vaekit.Run, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    codes = run.embed(split="train")
    path, num = run.embed_to(tmp_path / "codes.npz", split="train", batch_size=7)
    assert num == len(codes)
    with np.load(path) as file:
        equal(Embedding(file=None, **file), codes)
    path, _ = run.embed_to(tmp_path / "codes.npy", split="train", batch_size=7)
    np.testing.assert_allclose(np.load(path), codes.z, **CLOSE)
    path, _ = run.embed_to(tmp_path / "codes.parquet", split="train", batch_size=7)
    frame = pandas.read_parquet(path)
    assert list(frame) == ["row", "label", "class_name", "z", "std", "kl", "kl_per_latent"]
    np.testing.assert_allclose(np.stack(frame["z"]), codes.z, **CLOSE)
    assert frame["class_name"].tolist() == codes.class_name.tolist()
    assert frame.groupby("label")["kl"].mean().shape == (3,)
