"""The pictures that can be made of a trained model, each written by one call."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vaekit.data.specs import Fit
from vaekit.errors import UsageError
from vaekit.pictures import interpolation, latents, traversal
from vaekit.pictures.animation import ANIMATED, write_animation
from vaekit.pictures.grid import FORMATS, grid, labelled, pairs, write_picture
from vaekit.pictures.images import read_images
from vaekit.pictures.manifold import manifold, manifold_picture, quantile_grid
from vaekit.pictures.scatter import METHODS, Method, embed, scatter_picture
from vaekit.pictures.subject import NUM_CODES, Subject, is_number
from vaekit.streams import Streams

if TYPE_CHECKING:
    from PIL.Image import Image

    from vaekit.store.record import Record

NUM_ELLIPSES = 300


class Album:
    """Pictures of a run's best model; each is a function of the model, the data and a seed, and returns the file's path.

    Files lie in ``pictures/`` of the run folder unless ``out`` is given, whose suffix says the format: PNG, JPEG, WebP or AVIF;
    what can move is an animation as GIF, WebP or AVIF.

    Args:
        run: The run.
    """

    def __init__(self, run: Record) -> None:
        self.of = Subject(run)
        self.path, self.folder = run.folder, run.path / "pictures"

    # The pictures

    def sample(
        self,
        num: int = 36,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        separate: bool = False,
        out: str | Path | None = None,
    ) -> Path:
        """Draw images from the prior: as a grid, or into a folder of one file each."""
        images = self.of.vae.sample(num, temperature=temperature, generator=Streams(seed).generator("sample"))
        if not separate:
            return self._write(grid(images), out, self.path.samples / f"seed-{seed}.png")
        folder = self._empty_folder(out, self.path.samples / f"seed-{seed}")
        for i, image in enumerate(images):
            write_picture(grid(image[None], margin=0, small=1), folder / f"{i:0{len(str(num - 1))}}.png")
        return folder

    def reconstruct(self, images: Sequence[str | int | Path], *, fit: Fit | None = None, out: str | Path | None = None) -> Path:
        """Show images, files or folders or numbers of test images, each with its reconstruction below."""
        numbers = [int(str(given)) for given in images if is_number(given)]
        files = [Path(str(given)) for given in images if not is_number(given)]
        parts = [self.of.test(numbers).images] if numbers else []
        parts += [read_images(files, self.of.vae.image_shape, fit=fit)] if files or not numbers else []
        originals = torch.cat(parts)
        reconstructions = latents.decode(self.of.vae, latents.encode_means(self.of.vae, originals))
        return self._write(pairs(originals, reconstructions), out, self.path.reconstructions / "given.png")

    def interpolate(
        self,
        a: str | int | Path,
        b: str | int | Path,
        *,
        path: str | None = None,
        steps: int = 9,
        fit: Fit | None = None,
        out: str | Path | None = None,
    ) -> Path:
        """Show the way from one image to another, each a file or the number of a test image.

        Args:
            a: Where it begins.
            b: Where it ends.
            path: ``linear`` or ``spherical``; both unless given, and the straight one where it is animated.
            steps: Images on the way, the ends counted.
            fit: ``crop``, ``pad`` or ``stretch`` for files of another size.
            out: The file.
        """
        ends = self.of.image(a, fit), self.of.image(b, fit)
        target = self._file(out, self.folder / "interpolation.png")
        moving = target.suffix.lower() in ANIMATED
        chosen = [path] if path is not None else ["linear"] if moving else list(latents.PATHS)
        decoded = interpolation.interpolate(self.of.vae, *ends, chosen, steps)
        if moving:
            write_animation(interpolation.frames(decoded[chosen[0]]), target, milliseconds=80, hold=800)
            return target
        return self._write(interpolation.interpolation_picture(*ends, decoded), target, target)

    def traverse(
        self,
        *,
        dims: Sequence[int] | None = None,
        num: int = 10,
        steps: int = 9,
        sigmas: float = 3.0,
        quantiles: bool = False,
        base: str | int | Path | None = None,
        fit: Fit | None = None,
        out: str | Path | None = None,
    ) -> list[Path]:
        """Show what each latent does, the most informative first; a picture and an animation unless ``out`` names one.

        Args:
            dims: Which latents; the ``num`` most informative unless given.
            num: How many.
            steps: Images along each.
            sigmas: How far, in standard deviations of the prior, to both sides.
            quantiles: Go from the 1 % to the 99 % quantile of the codes of test images instead.
            base: Image at whose code the other latents stay; the first test image unless given.
            fit: For an image file of another size.
            out: The file.
        """
        targets = [self._file(out, self.folder / "traversal.png")]
        targets += [] if out is not None else [self.folder / "traversal.gif"]
        if targets[0].suffix.lower() not in {*FORMATS, *ANIMATED}:
            formats = ", ".join(dict.fromkeys((*FORMATS, *ANIMATED)))
            raise UsageError("pictures are not written in this format", given=targets[0], expected=formats)
        shown = self.traversal(dims=dims, num=num, steps=steps, sigmas=sigmas, quantiles=quantiles, base=base, fit=fit)
        for target in targets:
            if target.suffix.lower() in ANIMATED:
                write_animation(shown.frames(), target, milliseconds=120, hold=120)
            else:
                write_picture(shown.picture(), target)
        return targets

    def traversal(
        self,
        *,
        dims: Sequence[int] | None,
        num: int = 10,
        steps: int = 9,
        sigmas: float = 3.0,
        quantiles: bool = False,
        base: str | int | Path | None = None,
        fit: Fit | None = None,
    ) -> traversal.Traversal:
        """Return the images that `traverse` writes."""
        chosen = list(dims) if dims is not None else self.of.order[:num]
        latents.check_dims(chosen, self.of.vae.latent_dim)
        if quantiles:
            index = torch.arange(self.of.num_test(NUM_CODES))
            generator = Streams(self.of.seed).generator("traverse")
            draws = latents.encode_samples(self.of.vae, self.of.test(index).images, 1, generator)[0]
            values, heads = traversal.steps_of_quantiles(draws, steps)
        else:
            values, heads = traversal.steps_of_sigma(self.of.spread, sigmas, steps)
        base = 0 if base is None else base
        start = latents.encode_means(self.of.vae, self.of.image(base, fit)[None])[0]
        what = "quantiles of the codes" if quantiles else "standard deviations of the prior"
        about = f"{what}; all else as in {f'test image {base}' if is_number(base) else Path(str(base)).name}"
        rows = traversal.row_labels(chosen, self.of.kl_per_latent)
        return traversal.Traversal(traversal.traverse(self.of.vae, start, chosen, values), rows, heads, about)

    def manifold(self, *, dims: Sequence[int] | None = None, side: int = 20, out: str | Path | None = None) -> Path:
        """Show a plane of the latent space, decoded at equal steps of probability.

        Args:
            dims: One or two latents; with more than two latents the first principal axes of the codes unless given.
            side: Images along each axis.
            out: The file.
        """
        plane, spread = self.of.plane(dims)
        values = quantile_grid(side, spread)
        return self._write(
            manifold_picture(manifold(self.of.vae, plane, values), plane, values), out, self.folder / "manifold.png"
        )

    def scatter(
        self,
        *,
        method: Method = "auto",
        dims: Sequence[int] | None = None,
        num: int = NUM_CODES,
        ellipses: bool = False,
        seed: int = 0,
        out: str | Path | None = None,
    ) -> Path:
        """Show the codes of test images as points, coloured by label.

        Args:
            method: What brings more than two latents to the plane: ``pca``, ``tsne`` or ``umap``; ``auto`` takes ``pca``.
            dims: Two latents to show instead.
            num: Most images.
            ellipses: Draw two standard deviations of the posteriors of some of them.
            seed: Of what ``tsne`` and ``umap`` draw.
            out: The file.

        Raises:
            UsageError: The method's library is not installed, or options contradict one another.
        """
        return self._write(
            self.scattered(method=method, dims=dims, num=num, ellipses=ellipses, seed=seed), out, self.folder / "scatter.png"
        )

    def scattered(
        self,
        *,
        method: Method = "auto",
        dims: Sequence[int] | None = None,
        num: int = NUM_CODES,
        ellipses: bool = False,
        seed: int = 0,
    ) -> Image:
        """Return the picture that `scatter` writes."""
        if method not in METHODS:
            raise UsageError("there is no such method", given=method, expected=", ".join(METHODS))
        embedded = method in ("tsne", "umap")
        if embedded and (dims is not None or ellipses):
            raise UsageError(
                f"{method} keeps no axes, so that latents and ellipses have no place in it", remedy="take --method pca"
            )
        test = self.of.test(range(self.of.num_test(num)))
        codes = latents.encode_means(self.of.vae, test.images)
        title = f"codes of {len(codes):,} test images"
        if embedded:
            names = {"tsne": "t-SNE", "umap": "UMAP"}
            return scatter_picture(
                embed(codes, method, seed), test.labels, test.names, plane=None, title=f"{title}, {names[method]}"
            )
        if dims is None and (self.of.vae.latent_dim > 2 or method == "pca"):
            plane = latents.principal_plane(codes)
        else:
            plane, _ = self.of.plane(dims)
        draws = None
        if ellipses:
            drawn = latents.encode_samples(self.of.vae, test.images[:NUM_ELLIPSES], 100, Streams(seed).generator("scatter"))
            draws = plane.coordinates(drawn)
            title += f", two sd of {len(test.images[:NUM_ELLIPSES])} posteriors"
        return scatter_picture(plane.coordinates(codes), test.labels, test.names, plane=plane, title=title, draws=draws)

    def variations(self, *, per_class: int = 10, seed: int = 0, out: str | Path | None = None) -> Path:
        """Encode a test image of each label and decode draws from its posterior, into ``<label>/<i>.png`` and ``grid.png``.

        Raises:
            DataError: The data have no labels.
        """
        labels = self.of.labels("variations")
        generator = Streams(seed).generator("variations")
        picks = []
        for label in labels.unique().tolist():
            members = (labels == label).nonzero()[:, 0]
            picks.append(int(members[torch.randint(len(members), (), generator=generator)]))
        test = self.of.test(picks)
        draws = latents.encode_samples(self.of.vae, test.images, per_class, Streams(seed).generator("variations/noise"))
        images = latents.decode(self.of.vae, draws.transpose(0, 1).flatten(0, 1)).unflatten(0, (len(picks), per_class))
        folder = self._empty_folder(out, self.folder / "variations")
        assert test.labels is not None
        names = [test.name(label) for label in test.labels.tolist()]
        for name, row in zip(names, images, strict=True):
            place = self._folder(folder / re.sub(r"[^\w.-]+", "_", name))
            for i, image in enumerate(row):
                write_picture(grid(image[None], margin=0, small=1), place / f"{i}.png")
        rows = torch.cat([test.images[:, None], images], 1).flatten(0, 1)
        heads = ["given", *(str(i) for i in range(per_class))]
        write_picture(labelled(rows, columns=per_class + 1, rows=names, heads=heads), folder / "grid.png")
        return folder

    def morph(self, *, path: str = "linear", steps: int = 12, out: str | Path | None = None) -> Path:
        """Animate a way through the codes of every label's most central test image, and back to the first.

        Raises:
            DataError: The data have no labels.
        """
        target = self._file(out, self.folder / "morph.gif")
        labels = self.of.labels("morph")[: len(self.of.codes)]
        stations = self.of.codes[list(interpolation.examples_of_classes(self.of.codes, labels).values())]
        images = interpolation.morph(self.of.vae, stations, path, steps)
        write_animation(interpolation.frames(images), target, milliseconds=60, hold=60)
        return target

    def _write(self, image: Image, out: str | Path | None, default: Path) -> Path:
        path = self._file(out, default)
        write_picture(image, path)
        return path

    def _file(self, out: str | Path | None, default: Path) -> Path:
        path = Path(out) if out is not None else default
        self._folder(path.parent)
        return path

    def _empty_folder(self, out: str | Path | None, default: Path) -> Path:
        """Return a folder for files that belong together: the default one emptied, or one given that holds nothing yet."""
        if out is None:
            shutil.rmtree(default, ignore_errors=True)
        elif Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
            raise UsageError(f"{out} exists already, and its files would mix with the new ones", remedy="choose another --out")
        return self._folder(out or default)

    def _folder(self, path: str | Path) -> Path:
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write {path}", given=error.strerror) from None
        return Path(path)
