"""Drawing tools."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit.components.pictures.manifold import labelled_steps, manifold_picture
from vaekit.drawing import axes
from vaekit.drawing.animation import evenly, write_animation
from vaekit.drawing.axes import PALETTE, Axes, number, ticks
from vaekit.drawing.grid import captioned, grid, labelled, pairs
from vaekit.drawing.latents import Plane
from vaekit.drawing.picture import write_picture
from vaekit.drawing.scatter import scatter_picture, separate_boxes
from vaekit.drawing.tiles import EDGE, tiles
from vaekit.errors import DataError, UsageError
from vaekit.report.curves import Curve, chart, learning_curves


def ink(picture):
    """The bounding box of non-white pixels, as left, upper, right, lower."""
    return Image.eval(picture.convert("L"), lambda value: 255 - value).getbbox()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (4, "RGB"), (5, "L")])
def test_images_of_any_number_of_channels_are_shown(channels, mode):
    assert grid(torch.rand(5, channels, 9, 7)).mode == mode


def test_opacity_is_composited_onto_white():
    clear = torch.zeros(1, 4, 60, 60)
    assert np.asarray(grid(clear)).min() == 255


def test_a_volume_is_its_middle_slice():
    volume = torch.zeros(1, 1, 5, 56, 56)
    volume[:, :, 2, :28] = 1
    assert torch.equal(tiles(volume), tiles(volume[:, :, 2]))
    assert tiles(volume).float().mean() == 127.5


def test_a_row_of_a_table_is_a_bar_for_each_number_and_none_for_a_missing_one():
    picture = (tiles(torch.tensor([[0.25, 1.0, torch.nan, -3.0, 0.5]]))[0].float().mean(0) < 200).numpy()
    assert picture.shape == (56, 112)
    places = [EDGE + round((i + 0.5) * 108 / 5) for i in range(5)]
    assert picture[:, places].sum(0) == pytest.approx([14, 56, 0, 0, 28])
    gaps = [EDGE + math.ceil(i * 108 / 5) - 1 for i in range(1, 5)]
    assert not picture[:, gaps].any()
    assert tiles(torch.rand(2, 1000)).shape == (2, 3, 56, 1000 + 2 * EDGE)


def test_a_signal_is_a_curve_for_each_channel_with_gaps():
    rising = torch.linspace(0, 1, 101)
    rising[40:60] = torch.nan
    signal = torch.stack([rising, torch.full((101,), 0.5)])
    picture = tiles(signal[None], small=100)[0].permute(1, 2, 0).numpy().astype(int)
    assert picture.shape == (100, 200, 3)
    orange = picture[..., 2] < picture[..., 0] - 100
    blue = picture[..., 0] < picture[..., 2] - 60
    heights = [np.flatnonzero(blue[:, column]) for column in (20, 100, 180)]
    assert heights[0].mean() == pytest.approx(90, abs=3)
    assert heights[1].size == 0
    assert heights[2].mean() == pytest.approx(10, abs=3)
    assert np.flatnonzero(orange[:, 100]).mean() == pytest.approx(49.5, abs=1.5)
    dot = torch.full((1, 1, 101), torch.nan)
    dot[..., 50] = 0.5
    assert np.argwhere(tiles(dot, small=100)[0].numpy().min(0) < 200).mean(0) == pytest.approx([49.5, 99.5], abs=1)


@pytest.mark.parametrize("shape", [(7,), (1, 9), (3, 9), (1, 5, 4), (3, 5, 4), (1, 3, 5, 4)], ids=str)
def test_examples_of_any_shape_are_arranged_with_labels(shape):
    examples = torch.rand(6, *shape)
    _, _, height, width = tiles(examples).shape
    sheet = grid(examples, columns=3)
    assert sheet.size == (3 * (width + 2) + 2, 2 * (height + 2) + 2)
    framed = labelled(examples, columns=3, rows=["one", "two"], heads=["a", "b", "c"])
    inner = np.asarray(framed)[-6 - sheet.height : -6, -6 - sheet.width : -6]
    assert (inner == np.asarray(sheet)).all()
    assert captioned(examples, ["x"] * 6, columns=3).width >= 3 * width
    assert pairs(examples, examples).width == 6 * (width + 2) + 2


def test_a_missing_pixel_is_grey():
    image = torch.zeros(1, 1, 56, 56)
    image[..., 10, 20] = torch.nan
    assert np.argwhere(np.asarray(grid(image))[2:-2, 2:-2] == 128).tolist() == [[10, 20]]


def test_small_images_are_enlarged_by_whole_pixels():
    image = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(1, 1, 4, 4)
    pixels = np.asarray(grid(image))[2:-2, 2:-2]
    assert pixels.shape == (56, 56)
    assert (pixels[:7, :7] == 0).all()
    assert (pixels[:7, 7:14] == 255).all()


def test_values_outside_the_unit_interval_are_clipped():
    assert set(np.asarray(grid(torch.tensor([-3.0, 4.0]).view(1, 1, 1, 2))).ravel()) <= {0, 255}


def test_labels_take_space_without_changing_the_images():
    images = torch.rand(6, 1, 60, 60)
    sheet = labelled(images, columns=3, rows=["one", "a long label of a row"], heads=["a", "b", "c"], title="what it is")
    plain_grid = grid(images, columns=3)
    assert sheet.width > plain_grid.width + 100
    inner = np.asarray(sheet.convert("L"))[-6 - plain_grid.height : -6, -6 - plain_grid.width : -6]
    assert (inner == np.asarray(plain_grid)).all()


def test_captions_are_above_the_images():
    sheet = captioned(torch.zeros(3, 3, 60, 60), ["z1 KL 2.0", "z0 KL 1.0", "z2 KL 0.0"], columns=2, title="-3 sd")
    assert sheet.height > 2 * 60 + 40


@pytest.mark.parametrize("arrange", [lambda x: labelled(x, columns=4, rows=["H"]), lambda x: captioned(x, ["H"] * 4, columns=4)])
def test_only_wide_pictures_have_larger_text(arrange):
    def height(side):
        _, upper, _, lower = ink(arrange(torch.ones(4, 1, side, side)))
        return lower - upper

    assert height(56) == height(160) > 8
    assert height(640) == pytest.approx(4 * height(160), abs=3)


def test_column_labels_shrink_before_they_are_omitted():
    def heads(label):
        return ink(labelled(torch.ones(12, 1, 100, 100), columns=12, heads=[label] * 12))

    assert heads("-2.25 sdev") is not None
    assert heads("a label that is wider than its column") is None


@pytest.mark.parametrize(("num", "columns", "rows"), [(1, 1, 1), (5, 5, 1), (8, 8, 1), (20, 8, 3)])
def test_pairs_have_a_column_per_image_and_are_separated(num, columns, rows):
    sheet = np.asarray(pairs(torch.zeros(num, 1, 60, 60), torch.zeros(num, 1, 60, 60)))
    assert sheet.shape[1] == columns * 62 + 2
    down = "".join("#" if pixel == 0 else "." for pixel in sheet[:, 10])
    within, between = "#" * 60 + ".." + "#" * 60, r"\.{12,}"
    assert re.fullmatch(rf"\.\.{within}({between}{within}){{{rows - 1}}}\.\.", down)


def test_a_pair_is_an_image_above_its_reconstruction():
    originals = torch.arange(10).view(10, 1, 1, 1).expand(10, 1, 60, 60) / 255
    sheet = np.asarray(pairs(originals, originals + 100 / 255))
    assert sheet[30, 30::62].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert sheet[92, 30::62].tolist() == [100, 101, 102, 103, 104, 105, 106, 107]
    assert sheet[-94, [30, 92]].tolist() == [8, 9]
    assert sheet[-32, [30, 92]].tolist() == [108, 109]


@pytest.mark.parametrize("names", [("z0",), ("z0", "z1"), ("principal axis 1 (sd)", "principal axis 2 (sd)")])
@pytest.mark.parametrize("side", [1, 2, 3, 7, 20, 60])
@pytest.mark.parametrize("pixels", [28, 64])
def test_the_text_of_a_manifold_fits(names, side, pixels):
    """Nothing is clipped: the picture's border is white."""
    values = torch.linspace(-2.34, 2.34, side)[:, None].expand(side, len(names))
    plane = Plane(torch.zeros(len(names)), torch.eye(len(names)), names)
    left, upper, right, lower = ink(picture := manifold_picture(torch.ones(side ** len(names), 1, pixels, pixels), plane, values))
    assert left >= 2
    assert upper >= 2
    assert right <= picture.width - 2
    assert lower <= picture.height - 2


@pytest.mark.parametrize("side", range(1, 40))
@pytest.mark.parametrize("room", [0.1, 1.0, 1.7, 5.2])
def test_axis_labels_do_not_overlap_and_the_ends_have_priority(side, room):
    kept = sorted(labelled_steps(side, room))
    assert all(b - a >= room for a, b in itertools.pairwise(kept))
    assert kept[0] == 0
    assert (kept[-1] == side - 1) == (side == 1 or side - 1 >= room)
    if room < 1:
        assert len(kept) >= min(side, 4)


@pytest.fixture
def written(monkeypatch):
    """Records the text written on charts."""
    texts = []
    monkeypatch.setattr(axes, "write", lambda draw, at, text, **_: texts.append((text, at)))
    return texts


def test_only_overlapping_names_are_moved():
    middles = [(100, 100), (103, 101), (100, 100), (300, 300), (98, 108)]
    sizes = [(30, 20), (12, 20), (140, 20), (30, 20), (30, 20)]
    placed = separate_boxes(middles, sizes)
    assert (placed[0], placed[3]) == (middles[0], middles[3])
    boxes = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for (x, y), (w, h) in zip(placed, sizes, strict=True)]
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert all(math.dist(a, b) < 60 for a, b in zip(placed, middles, strict=True))


def test_group_names_do_not_overlap_in_a_scatter_plot(written):
    points = torch.rand(100, 2, generator=torch.Generator().manual_seed(0)).repeat_interleave(3, 0)
    scatter_picture(points, torch.arange(300) % 3, None, plane=None, title="t")
    names = [at for text, at in written if text in ("0", "1", "2")][-3:]
    for a, b in itertools.combinations(names, 2):
        assert max(abs(a[0] - b[0]) / 10, abs(a[1] - b[1]) / 17) > axes.SCALE


def test_codes_of_one_latent_lie_on_lines_of_the_labels_that_they_have(written):
    plane = Plane(torch.zeros(1), torch.eye(1), ("z7",))
    values, labels = torch.tensor([[1.0], [2.0], [1.5]]), torch.tensor([3, 0, 3])
    scatter_picture(values, labels, ["ann", "bob", "cid", "dan"], plane=plane, title="t")
    rows = [text for text, _ in written if text.isalpha() and text not in ("t", "label")]
    assert rows == ["ann", "dan"]
    heights = {text: at[1] for text, at in written}
    assert heights["ann"] < heights["dan"]
    written.clear()
    scatter_picture(values, None, None, plane=plane, title="t")
    assert not {"label", "0"} & {text for text, _ in written}


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 3.1), (-137.5, -99.0), (1e-5, 3e-5), (5, 5)])
def test_ticks_are_round_and_within_the_range(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 12
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)


def test_numbers_are_short():
    assert [number(v) for v in (0, 0.5, -0.123456, 1234.5, 20.0)] == ["0", "0.5", "-0.123", "1,234", "20"]


def test_points_on_axes_match_their_values():
    axes = Axes((-1, 1), (0, 10), ("x", "y"), "title", side=200)
    assert axes.at(-1, 0) == (axes.left, axes.top + 200)
    assert axes.at(1, 10) == (axes.left + 200, axes.top)
    for group in range(3 * len(PALETTE)):
        axes.mark(axes.at(0, 5), group)
    assert axes.finish().size == axes.size


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg", ".avif"])
def test_the_suffix_determines_the_format(tmp_path, suffix):
    write_picture(grid(torch.rand(4, 3, 8, 8)), tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.format == {".jpg": "JPEG"}.get(suffix, suffix[1:].upper())


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".avif"])
def test_animations_keep_all_frames(tmp_path, suffix):
    frames = [Image.new("RGB", (40, 30), (i * 60, 0, 90)) for i in range(4)]
    write_animation(frames, tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.n_frames == 4


def test_unsupported_formats_are_refused(tmp_path):
    with pytest.raises(UsageError, match="unsupported picture format"):
        write_picture(Image.new("L", (3, 3)), tmp_path / "a.tiff")
    with pytest.raises(UsageError, match="unsupported animation format"):
        write_animation([Image.new("L", (3, 3))], tmp_path / "a.png")
    with pytest.raises(DataError, match="no frames"):
        write_animation([], tmp_path / "a.gif")


def test_charts_describe_themselves_and_escape_names():
    svg = chart("a < b", [Curve("train & more", [(1, 5.0), (2, 3.0)]), Curve("single", [(1, 2.0)])], "nats")
    assert "a &lt; b" in svg
    assert "train &amp; more from 5 to 3" in svg
    assert "<circle" in svg


def test_a_chart_from_zero_begins_there():
    points = [(epoch, 5.0 + epoch) for epoch in range(1, 9)]
    lowest = [
        float(re.findall(r'"end" font-size="12" fill="currentColor">([^<]*)<', chart("a", [Curve("a", points)], "s", **given))[0])
        for given in ({}, {"from_zero": True})
    ]
    assert lowest[0] > 5
    assert lowest[1] == 0


def test_the_latents_with_the_largest_final_kl_are_named():
    kl = [0.3, 2.0, 0.0, 1.0, 0.1, 0.2, 0.4]
    records = [{"epoch": epoch, "validation_kl_per_latent": values} for epoch, values in ((1, kl[::-1]), (2, kl))]
    drawn = learning_curves([record | {"validation_kl": 4.0, "train_kl": 4.0} for record in records])["kl_per_latent"]
    assert set(re.findall(r">(z\d)<", drawn)) == {"z0", "z1", "z3", "z5", "z6"}


def epochs_below(svg):
    return [int(text) for text in re.findall(r'text-anchor="middle" font-size="12" fill="currentColor">(\d+)<', svg)]


@pytest.mark.parametrize("last", [2, 4, 5, 7, 28, 30, 101, 999])
def test_the_first_and_last_epochs_are_labelled_without_overlap(last):
    svg = chart("a", [Curve("a", [(epoch, 1 / epoch) for epoch in range(1, last + 1)])], "nats")
    epochs = epochs_below(svg)
    assert epochs[0] == 1
    assert epochs[-1] == last
    places = [float(x) for x in re.findall(r'<text x="([\d.]+)"[^>]*"middle"', svg)[: len(epochs)]]
    assert all(b - a > 30 for a, b in itertools.pairwise(places))
    assert epochs_below(chart("a", [Curve("a", [(3, 1.0)])], "nats")) == [3]


@pytest.mark.parametrize(
    ("far", "said"),
    [
        ((), None),
        ((1,), "Values of epoch 1 lie outside."),
        ((1, 2, 3), "Values of epochs 1 to 3 lie outside."),
        ((1, 3), "Values of 2 of the epochs 1 to 3 lie outside."),
    ],
)
def test_epochs_outside_a_chart_are_counted_once_for_all_of_its_curves(far, said):
    points = [(epoch, 1e6 if epoch in far else epoch % 2) for epoch in range(1, 51)]
    svg = chart("a", [Curve(str(i), points) for i in range(5)], "nats")
    assert re.findall(r"Values[^<]*", svg) == ([] if said is None else [said])


def test_curve_labels_have_the_colours_of_their_curves():
    curves = [Curve(f"z{i}", [(1, 1.0), (2, value)], colour=i, end=f"z{i}") for i, value in enumerate((0.0, 5.0, 0.01, 0.0))]
    svg = chart("a", curves, "nats")
    leaders = re.findall(
        r'stroke="var\(--c(\d)[^"]*" points="([\d.]+),([\d.]+) ([\d.]+),([\d.]+)"/><text x="\S+" y="([\d.]+)".*?>z(\d)<', svg
    )
    assert sorted(name for *_, name in leaders) == ["0", "1", "2", "3"]
    levels = []
    for colour, x, y, _, level, text, name in leaders:
        assert colour == name
        assert f'{x},{y}"' in svg.replace(f"{x},{y} ", "")  # where the curve ends
        assert float(text) == float(level) + 4
        levels.append(float(level))
    assert all(b - a >= 13 for a, b in itertools.pairwise(levels))
    assert max(levels) <= 250 - 34


def test_curves_exist_for_what_was_recorded_only():
    record = {"epoch": 1, "validation_loss": 3.0, "train_loss": 4.0, "images_per_second": 9.0, "validation_active_units": 0}
    charts = learning_curves([record, record | {"epoch": 2}])
    assert list(charts) == ["loss", "active_units", "images_per_second"]
    assert learning_curves([]) == {}


@pytest.mark.parametrize(("num", "most"), [(3, 8), (8, 8), (9, 8), (100, 8), (1000, 180)])
def test_selected_files_are_evenly_spaced_from_first_to_last(num, most):
    files = [Path(str(i)) for i in range(num)]
    kept = [int(str(file)) for file in evenly(files, most)]
    assert (kept[0], kept[-1], len(kept)) == (0, num - 1, min(num, most))
    gaps = {after - before for before, after in itertools.pairwise(kept)}
    assert max(gaps) - min(gaps) <= 1
