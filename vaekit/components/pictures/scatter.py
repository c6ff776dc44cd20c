"""The picture ``scatter``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from vaekit.drawing.options import Dims
from vaekit.drawing.picture import Picture
from vaekit.drawing.subject import NUM_CODES, Subject
from vaekit.errors import UsageError
from vaekit.roles import pictures
from vaekit.schema import Count, Seed

if TYPE_CHECKING:
    from PIL.Image import Image

NUM_ELLIPSES = 300


@pictures("scatter")
class Scatter(Picture):
    """Plot the codes of test images, coloured by label.

    Args:
        method: Projection of more than two latents onto the plane; auto is pca. tsne needs scikit-learn, umap needs umap-learn.
        dims: Indices of one or two latents to show instead, from 0; none projects all.
        num: Maximum number of test images.
        ellipses: Whether to draw some posteriors as ellipses of two standard deviations.
        seed: Seed for ellipses, tsne and umap.
    """

    section = "latents"
    title = "Codes of test images"

    def __init__(
        self,
        subject: Subject,
        *,
        method: Literal["auto", "pca", "tsne", "umap"] = "auto",
        dims: Dims | None = None,
        num: Annotated[Count, Field(ge=2)] = NUM_CODES,
        ellipses: bool = False,
        seed: Seed = 0,
    ) -> None:
        if method in ("tsne", "umap") and (dims is not None or ellipses):
            raise UsageError(f"{method} keeps no axes, so latents and ellipses cannot be shown", remedy="use --method pca")
        super().__init__(subject)
        self.method, self.dims, self.num, self.ellipses, self.seed = method, dims, num, ellipses, seed

    def still(self) -> Image:
        """Draw the points.

        Raises:
            UsageError: The method's library is not installed, or `dims` are not latents of the model.
        """
        from vaekit.drawing.latents import encode_means, encode_samples, principal_plane
        from vaekit.drawing.scatter import project, scatter_picture
        from vaekit.streams import Streams

        vae, test = self.subject.vae, self.subject.test(range(self.subject.num_test(self.num)))
        codes = encode_means(vae, test)
        title = f"codes of {len(codes):,} test images"
        if self.method in ("tsne", "umap"):
            name = {"tsne": "t-SNE", "umap": "UMAP"}[self.method]
            points = project(codes, self.method, self.seed)
            return scatter_picture(points, test.labels, test.names, plane=None, title=f"{title}, {name}")
        if self.dims is None and (vae.latent_dim > 2 or self.method == "pca"):
            plane = principal_plane(codes)
        else:
            plane, _ = self.subject.plane(self.dims)
        draws = None
        if self.ellipses:
            few = test.at(slice(NUM_ELLIPSES))
            draws = plane.coordinates(encode_samples(vae, few, 100, Streams(self.seed).generator("scatter")))
            title += f", two sd of {len(few.images)} posteriors"
        return scatter_picture(plane.coordinates(codes), test.labels, test.names, plane=plane, title=title, draws=draws)

    def alt(self) -> str:
        labelled = self.subject.run.splits.test.labels is not None
        return "Scatter plot of the codes of test images" + (", coloured by label" if labelled else "")
