"""The report of a run: a self-contained page."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

import vaekit
from vaekit.errors import CheckpointError
from vaekit.report import write_report
from vaekit.report.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Curve, chart
from vaekit.store.folder import RunFolder

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """Parses a page: its elements in order, their attributes, and whether all are closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def path(labelled_run, tmp_path_factory):
    return write_report(vaekit.Run(labelled_run), tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def text(path):
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_page_has_all_sections_in_a_navigation(page):
    anchors = [a["href"] for a in page.all("a")]
    sections = [f"#{section['id']}" for section in page.all("section")]
    assert sections == ["#summary", "#curves", "#pictures", "#latents", "#evaluation", "#spec", "#environment"]
    assert anchors == ["#main", *sections]


def test_every_element_is_closed_and_every_id_is_unique(page):
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_page_loads_no_other_resources(page, text):
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "srcset", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"https?://|url\((?!#)|@import", text)
    assert "default-src 'none'" in text


def test_pictures_have_alternative_texts_and_sizes(page):
    assert len(page.all("img")) >= 6
    for attributes in page.all("img"):
        assert attributes["alt"].strip()
        assert attributes["width"].isdigit()
    for attributes in page.all("svg"):
        assert attributes["role"] == "img"
        assert "over epochs" in attributes["aria-label"]


def test_curves_show_bound_halves_latents_units_and_speed(page):
    described = " | ".join(attributes["aria-label"] for attributes in page.all("svg"))
    for title in ("-(CE+KL)", "objective", "cross-entropy", "KL,", "KL of each latent", "active units", "speed"):
        assert title in described


def test_curves_of_many_epochs_keep_their_extremes_and_a_bounded_size():
    values = np.random.default_rng(0).normal(size=20_000)
    lows, highs = np.arange(300, 20_000, 997), np.arange(800, 20_000, 997)  # in different columns of pixels, anywhere in them
    values[lows], values[highs] = -9, 9
    curves = [Curve("noise", list(enumerate(values.tolist(), 1)))]
    drawn = chart("Noise", curves, "nats", from_zero=False)
    (points,) = re.findall(r'<polyline[^>]* points="([^"]*)"', drawn)
    pixels = np.array([point.split(",") for point in points.split()], dtype=float)
    assert len(pixels) <= 4 * (WIDTH - LEFT - RIGHT + 1)
    assert (np.diff(pixels[:, 0]) >= 0).all()
    whole = 0.05 * 18, HEIGHT - TOP - BOTTOM  # the margin, in values; the height, in pixels
    for value, at, number in ((-9, pixels[:, 1].max(), len(lows)), (9, pixels[:, 1].min(), len(highs))):
        assert at == pytest.approx(TOP + whole[1] * (9 + whole[0] - value) / (18 + 2 * whole[0]), abs=0.1)
        assert (pixels[:, 1] == at).sum() == number
    few = [(float(i), float(i % 3)) for i in range(50)]
    assert chart("Few", [Curve("few", few)], "nats").count(",") >= 50


def test_the_report_states_whether_weights_are_averaged(labelled_run, text, tmp_path):
    averaged = tmp_path / "averaged"
    shutil.copytree(labelled_run, averaged)
    spec = averaged / "spec.yaml"
    spec.write_text(spec.read_text().replace("ema: null", "ema: 0.9"))
    assert "moving average" in write_report(vaekit.Run(averaged), tmp_path / "report.html").read_text("utf-8")
    assert "moving average" not in text


def test_the_objective_is_described_with_its_reconstruction_term(text):
    assert "3 latents; objective: reconstruction + kl<" in text


def test_the_speed_is_images_over_seconds_of_all_epochs(labelled_run, text):
    last = vaekit.Run(labelled_run).metrics()[-1]
    assert last["step"] == 3 * (last["step"] // 3)
    assert f"<dt>images/s</dt><dd>{last['step'] * 16 / last['seconds']:,.0f}</dd>" in text


def test_numbers_are_right_aligned_and_versions_left_aligned(text):
    evaluation, environment = (
        re.search(rf'<section id="{name}".*?</section>', text, re.S)[0] for name in ("evaluation", "environment")
    )
    assert evaluation.count("<td class=number>") == evaluation.count("<tr>") - 1 > 3
    assert f"<td>{vaekit.__version__}</td>" in environment
    assert "class=number" not in environment


def test_a_picture_with_text_scrolls_in_a_narrow_window(text):
    wide = re.findall(r'<div class="wide scroll"[^>]*aria-label="([^"]*)"><img', text)
    assert wide == ["Codes of test images", "Traversals"]
    assert re.search(r"@media \(max-width: \d+rem\) { \.wide img { max-width: max\(100%, \d+rem\); } }", text)


@pytest.mark.filterwarnings("ignore:the data have changed")
def test_labels_are_mentioned_only_if_there_are_any(labelled_run, text, tmp_path):
    alt = "Scatter plot of the codes of test images"
    assert f'alt="{alt}, coloured by label"' in text
    bare = tmp_path / "bare"
    shutil.copytree(labelled_run, bare)
    data = re.search(r"path: (.*)", spec := (bare / "spec.yaml").read_text())[1]
    np.save(tmp_path / "images.npy", np.load(data)["images"])
    (bare / "spec.yaml").write_text(spec.replace(data, str(tmp_path / "images.npy")))
    assert f'alt="{alt}"' in write_report(vaekit.Run(bare)).read_text("utf-8")


def test_scrolling_elements_and_sliders_are_accessible_by_keyboard(page):
    sliders = page.all("input")
    assert len(sliders) == 2
    assert all(slider["type"] == "range" and slider["aria-label"] for slider in sliders)
    for _, attributes in page.elements:
        if "scroll" in attributes.get("class", "").split():
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]


def test_the_page_is_small_and_has_light_and_dark_and_narrow_forms(path, text):
    assert path.stat().st_size < 10_000_000
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_names_are_escaped(labelled_run, tmp_path):
    odd = tmp_path / "a<b>&c"
    shutil.copytree(labelled_run, odd)
    text = write_report(vaekit.Run(odd)).read_text("utf-8")
    assert "a&lt;b&gt;&amp;c" in text
    assert "<b>&c" not in text


def test_a_report_without_data_gives_the_reason(labelled_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(labelled_run, run)
    spec = run / "spec.yaml"
    spec.write_text(re.sub(r"path: .*", "path: gone.npz", spec.read_text()))
    text = write_report(vaekit.Run(run)).read_text("utf-8")
    assert "the dataset could not be read: the file does not exist" in text
    assert "Samples of the best weights" in text


def test_a_run_without_a_model_has_no_report(labelled_run, tmp_path):
    (tmp_path / "spec.yaml").write_text((labelled_run / "spec.yaml").read_text())
    with pytest.raises(CheckpointError):
        write_report(vaekit.Run(tmp_path))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_the_page_without_errors(path, tmp_path, width):
    """The page's script runs without console output, and nothing is wider than the window."""
    probe = "<script>document.title = `${document.documentElement.scrollWidth <= innerWidth} ${document.images.length}`</script>"
    copy = tmp_path / "report.html"
    copy.write_text(path.read_text("utf-8").replace("</body>", f"{probe}</body>"), "utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", "--v=0", f"--window-size={width},900", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    assert title[1].startswith("true ")
    assert done.stdout.count("data-step=") - done.stdout.count('hidden=""') == 2


def test_the_metrics_of_a_run_are_read_once(labelled_run, tmp_path, monkeypatch):
    reads = []
    read = RunFolder.read_metrics
    monkeypatch.setattr(RunFolder, "read_metrics", lambda self: reads.append(self) or read(self))
    write_report(vaekit.Run(labelled_run), tmp_path / "report.html")
    assert len(reads) == 1
