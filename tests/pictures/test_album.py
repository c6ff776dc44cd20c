"""Pictures of a trained model: correct size and content, reproducible for a seed."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import vaekit
from vaekit.components.pictures.traverse import Traverse
from vaekit.data import Batches, TensorImages
from vaekit.drawing.examples import read_examples
from vaekit.errors import DataError, UsageError
from vaekit.streams import Streams


@pytest.fixture(scope="module")
def run(labelled_run):
    return vaekit.Run(labelled_run)


def size(path):
    with Image.open(path) as image:
        return image.size


def test_samples_depend_on_the_seed_only(run, tmp_path):
    paths = [run.pictures.sample(num=4, seed=seed, out=tmp_path / f"{i}.png") for i, seed in enumerate((1, 1, 2))]
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again != other


def test_separate_samples_are_files_of_the_images_own_size(run, tmp_path):
    folder = run.pictures.sample(num=12, separate=True, out=tmp_path / "many")
    assert [path.name for path in sorted(folder.iterdir())] == [f"{i:02}.png" for i in range(12)]
    assert size(folder / "00.png") == (6, 8)


def test_files_of_two_calls_never_mix(run, tmp_path):
    run.pictures.sample(num=12, separate=True, out=tmp_path / "many")
    with pytest.raises(UsageError, match="is not empty"):
        run.pictures.sample(num=3, separate=True, out=tmp_path / "many")
    assert len(list((tmp_path / "many").iterdir())) == 12
    for num in (12, 3):
        folder = run.pictures.sample(num=num, separate=True)
    assert len(list(folder.iterdir())) == 3


def test_colour_becomes_grey_with_a_warning(run, tmp_path):
    pixels = np.full((8, 6, 3), 100, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.pictures.reconstruct([tmp_path / "grey.png"], out=tmp_path / "r.png")
    pixels[3, 3, 1] = 101
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    with pytest.warns(UserWarning, match="in colour"):
        run.pictures.reconstruct([tmp_path / "colour.png"], out=tmp_path / "r.png")


def test_a_class_without_test_images_is_named(run, tmp_path):
    test = run.splits.test
    without = vaekit.Run(run.path)
    without.splits = replace(run.splits, test=test.subset((test.labels != 1).nonzero()[:, 0]))
    with pytest.warns(UserWarning, match="variations: no test images of class"):
        folder = without.pictures.variations(per_class=1, out=tmp_path / "v")
    assert len([path for path in folder.iterdir() if path.is_dir()]) == len(test.labels.unique()) - 1


def test_a_temperature_of_zero_gives_one_image(run):
    images = run.vae().sample(3, temperature=0.0)
    assert torch.equal(images[0], images[1])


def test_numbers_and_files_are_reconstructed_together(run, tmp_path):
    Image.fromarray(np.zeros((8, 6), np.uint8)).save(tmp_path / "a.png")
    assert run.pictures.reconstruct([3, "5", tmp_path / "a.png"], out=tmp_path / "r.png").is_file()


def test_reconstructing_no_images_is_refused(run, tmp_path):
    with pytest.raises(DataError, match="no images given"):
        run.pictures.reconstruct([], out=tmp_path / "r.png")
    assert not list(tmp_path.iterdir())


def test_interpolation_shows_both_paths_between_the_images(run, tmp_path):
    both = size(run.pictures.interpolate(0, 1, out=tmp_path / "both.png"))
    one = size(run.pictures.interpolate(0, "1", way="spherical", out=tmp_path / "one.png"))
    assert both[1] > one[1] + 50
    moving = run.pictures.interpolate(0, 1, steps=5, out=tmp_path / "i.gif")
    with Image.open(moving) as image:
        assert image.n_frames == 5


def test_images_of_another_size_are_resized_only_on_request(run, tmp_path):
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "large.png")
    with pytest.raises(DataError, match="does not have the size"):
        run.pictures.interpolate(0, tmp_path / "large.png", out=tmp_path / "i.png")
    assert run.pictures.interpolate(0, tmp_path / "large.png", fit="pad", out=tmp_path / "i.png").is_file()
    with pytest.raises(DataError, match="does not exist"):
        run.pictures.interpolate(0, "absent.png", out=tmp_path / "i.png")
    with pytest.raises(UsageError, match="no such image in the dataset"):
        run.pictures.interpolate(0, 10**6, out=tmp_path / "i.png")


def test_traversals_are_ordered_by_kl(run, tmp_path):
    kl = run.evaluation()["kl_per_latent"]
    shown = Traverse(run.pictures.subject, steps=5)
    order = sorted(range(3), key=lambda d: -kl[d])
    assert shown.names == tuple(f"z{d} KL {kl[d]:.1f}" for d in order)
    assert shown.images.shape == (3, 5, 1, 8, 6)
    assert Traverse(run.pictures.subject, dims=(2, 0)).names == (f"z2 KL {kl[2]:.1f}", f"z0 KL {kl[0]:.1f}")
    picture, moving = run.pictures.traverse(steps=3, out=None)
    assert (picture.name, moving.name) == ("traversal.png", "traversal.gif")
    with Image.open(moving) as image:
        assert image.n_frames == 4


def test_a_traversal_changes_a_single_latent(run):
    shown = Traverse(run.pictures.subject, dims=(1,), steps=3, sigmas=2.0, base=4)
    z = run.vae().encode(run.pictures.subject.test([4]).images).mean.repeat(3, 1)
    z[:, 1] = torch.tensor([-2.0, 0.0, 2.0])
    torch.testing.assert_close(shown.images[0], run.vae().decode(z))


def test_traversals_can_follow_quantiles(run, tmp_path):
    (path,) = run.pictures.traverse(dims=[2], quantiles=True, base=1, out=tmp_path / "t.webp")
    assert path.is_file()
    with pytest.raises(UsageError, match="from 0 to 2"):
        run.pictures.traverse(dims=[3], out=tmp_path / "t.png")


def test_the_manifold_is_of_chosen_latents_or_principal_axes(run, tmp_path):
    plane, _ = run.pictures.subject.plane(None)
    assert plane.names == ("principal axis 1 (sd)", "principal axis 2 (sd)")
    assert run.pictures.manifold(side=3, out=tmp_path / "m.png").is_file()
    assert run.pictures.manifold(dims=[2, 0], side=4, out=tmp_path / "m.png").is_file()
    assert run.pictures.manifold(dims=[1], side=5, out=tmp_path / "m.png").is_file()
    with pytest.raises(UsageError, match="one or two"):
        run.pictures.manifold(dims=[0, 1, 2], out=tmp_path / "m.png")


@pytest.mark.parametrize("options", [{}, {"ellipses": True}, {"dims": [0, 2]}, {"dims": [1]}, {"num": 10}])
def test_scatter_plots(run, tmp_path, options):
    assert run.pictures.scatter(**options, out=tmp_path / "s.png").is_file()


@pytest.mark.slow
def test_tsne_plots_codes_without_axes(run, tmp_path):
    pytest.importorskip("sklearn")
    assert run.pictures.scatter(method="tsne", out=tmp_path / "s.png").is_file()


def test_tsne_has_no_ellipses(run, tmp_path):
    with pytest.raises(UsageError, match="keeps no axes"):
        run.pictures.scatter(method="tsne", ellipses=True, out=tmp_path / "s.png")


def test_a_missing_library_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(UsageError, match="pip install umap-learn"):
        run.pictures.scatter(method="umap", out=tmp_path / "s.png")


def test_variations_are_files_by_label_and_a_grid(run, tmp_path):
    folder = run.pictures.variations(per_class=2, out=tmp_path / "v")
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert found == ["grid.png", *(f"{name}/{i}.png" for name in ("left", "middle", "right_far") for i in range(2))]
    again = run.pictures.variations(per_class=2, out=tmp_path / "again")
    assert (again / "left" / "1.png").read_bytes() == (folder / "left" / "1.png").read_bytes()


def test_variations_of_classes_with_similar_names_are_all_written(run, tmp_path):
    alike = vaekit.Run(run.path)
    test = TensorImages(run.splits.test.gather(torch.arange(24)), run.splits.test.labels[:24], ("C++", "C#", "grid.png"))
    alike.splits = replace(run.splits, test=test)
    folder = alike.pictures.variations(per_class=2, out=tmp_path / "v")
    assert len(list(folder.rglob("?.png"))) == 2 * 3
    assert sum(path.is_dir() for path in folder.iterdir()) == 3
    assert (folder / "grid.png").is_file()


@pytest.mark.parametrize("binarize", ["dynamic", "static", "threshold", "none"])
def test_pictures_show_test_images_as_binarised_for_evaluation(run, binarize):
    source = run.splits.test
    scored = Batches(source, batch_size=7, streams=Streams(3), binarize=binarize, train=False, split="test")
    whole = torch.cat([batch.x for batch in scored.epoch(0)])
    for index in ([5], [3, 5], [9, 5, 0]):
        assert torch.equal(read_examples(source, index, binarize).images, whole[index])


def test_morphing_visits_every_class_and_returns(run, tmp_path):
    with Image.open(run.pictures.morph(steps=4, out=tmp_path / "m.gif")) as image:
        assert image.n_frames == 3 * 4


def test_models_without_labels_colour_or_density_have_pictures(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (60, 7, 9, 3), dtype=np.uint8))
    hidden = {"encoder.hidden": (8,), "decoder.hidden": (8,)}
    data = {"dataset": "array", "dataset.path": str(tmp_path / "images.npy"), "posterior": "delta", "latent_dim": 1}
    run = vaekit.train(**hidden, **data, epochs=1, batch_size=16, threads=1, device="cpu", out=tmp_path / "run")
    for path in (
        run.pictures.sample(num=2),
        run.pictures.manifold(side=4),
        run.pictures.scatter(),
        run.pictures.interpolate(0, 1),
    ):
        assert path.is_file()
    assert Traverse(run.pictures.subject).names == ("z0",)
    for needs_labels in (run.pictures.variations, run.pictures.morph):
        with pytest.raises(DataError, match=r"--dataset\.labels"):
            needs_labels()


def test_a_run_has_a_notebook_representation(run):
    html = run._repr_html_()
    assert "<svg" in html
    assert "data:image/png;base64," in html
    assert all("max-width:100%;height:auto" in tag for tag in re.findall("<img[^>]*>", html))


def test_a_notebook_shows_data_epochs_and_metrics_of_a_run(run, labelled_run, tmp_path):
    numbers = run.evaluation()
    html = run._repr_html_()
    assert "<br>array, 3 of 3 epochs; " in html
    bound = f"-(CE+KL) {numbers['elbo']:.3f} ± {numbers['elbo_standard_error']:.3f}"
    assert f"{bound}; KL {numbers['kl']:.3f}; cross-entropy {numbers['reconstruction']:.3f}; " in html
    assert f"active units {numbers['active_units']}; split test; binarised none; elbo is {numbers['elbo_is']}<" in html
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "spec.yaml").write_text((labelled_run / "spec.yaml").read_text())
    assert "<br>array, 0 of 3 epochs</p>" in vaekit.Run(begun)._repr_html_()
