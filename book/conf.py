"""Sphinx's settings. `python -m book` prepares the sources and runs Sphinx with them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

project = "transformer_lib"
author = "the transformer_lib authors"
copyright = f"2026, {author}"
html_title = "The Transformer, piece by piece"
language = "en"
extensions = [
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "book.extension",
]

# Notebooks are shown as they were executed.
nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 130
toc_object_entries_show_parents = "hide"
add_module_names = False

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_math_renderer = "katex"
html_show_sourcelink = False
html_copy_source = False
html_domain_indices = False
copybutton_exclude = ".linenos, .gp, .go"
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {
        "color-brand-primary": "#1d6399",
        "color-brand-content": "#1d6399",
        "color-brand-visited": "#6d3503",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7fb8dc",
        "color-brand-content": "#7fb8dc",
        "color-brand-visited": "#e9a548",
    },
}
