"""Sphinx configuration of vaekit's documentation.

    python -m pip install ".[docs]"
    sphinx-build -W --keep-going -n examples/site site

Nothing is fetched while it builds, and the pages load nothing from elsewhere.
"""

import sys
from pathlib import Path

from sphinx.builders.html import StandaloneHTMLBuilder

import vaekit

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "vaekit"
author = "the authors of vaekit"
copyright = author  # noqa: A001 - Sphinx's name
version = release = vaekit.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.duration",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "catalogue",
    "commands",
    "terminal",
    "chapters",
    "formulae",
    "links",
    "llms",
]
exclude_patterns = ["_ext"]

html_theme = "furo"
html_title = f"vaekit {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_math_renderer = "mathml"
StandaloneHTMLBuilder.supported_image_types = [*StandaloneHTMLBuilder.supported_image_types, "image/webp"]

myst_enable_extensions = ["attrs_inline", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"
pygments_style, pygments_dark_style = "default", "monokai"

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "py:obj"

nitpicky = True
nitpick_ignore_regex = [
    # Single backticks in docstrings are code, which becomes a link where the name is documented.
    ("py:obj", r".*"),
    # Types of other projects: no inventory of theirs is fetched.
    (
        r"py:.*",
        r"(torch|np|numpy|pathlib|collections|contextlib|pydantic|annotated_types)\..*|Tensor|Path|Image(\.Image)?|nn\..*",
    ),
    (r"py:class", r"FieldInfo|NoneType|[GL][et]"),
    # Type variables.
    (r"py:class", r"(vaekit\..*\.)?[A-Z]"),
    # What objects of the interface hold, and users do not call.
    (r"py:class", r"vaekit\.(compute|data|drawing|export|plugins|registry|specs|store|testing|training)\..*"),
    (r"py:(class|exc)", r"Array|ClassName|Drawn|EncodedImages?|Examples|Fit|ImageName|Interrupted|Latent"),
    (r"py:class", r"JointStreams|Missing|Parity|Plane|Reading|Record|Spread|Streams"),
]
