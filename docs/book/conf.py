"""How Sphinx makes the book. `python -m tools.book` runs it, on a folder that it fills with the pages' sources.

Nothing here may lead to a request while somebody reads: no network, no server, pages opened as files.
"""

from sphinxcontrib import katex

from tools import npm
from tools.book.site import FORMULAS
from tools.book.sources import DOCUMENTS
from tools.set_repo import present_slug

SLUG = present_slug(npm.WEB.parent)

project = html_title = "lora_edu"
author = "the lora_edu contributors"
copyright = "2026, the lora_edu contributors. Text and figures: CC BY 4.0. Code: Apache License 2.0"
language = "en"
extensions = ["myst_nb", "tools.book.terms"]
exclude_patterns = ["**.ipynb_checkpoints"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show the set-up", "Hide the set-up"
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "dollarmath"]
myst_dmath_allow_digits = myst_dmath_allow_space = False  # "from $5 to $6" holds no formula
myst_heading_anchors = 3
# What is no syntax in Jupyter is none here: a line of text may begin with "% of".
myst_disable_syntax = ["myst_block_break", "myst_line_comment", "myst_role", "myst_target"]
smartquotes = False  # -- begins the name of an option

html_math_renderer = "source"
if tags.has(FORMULAS):
    katex.NODEJS_BINARY = str(npm.node())
    katex.STARTUP_TIMEOUT = katex.RENDER_TIMEOUT = 300  # seconds, not 5: on a busy machine node comes late
    # The one way to reach node that tries again when node has bound its socket, and does not listen yet.
    katex.KaTeXServer.start_server_process = katex.KaTeXServer.start_network_socket
    extensions.append("sphinxcontrib.katex")
    html_math_renderer = "katex"
    katex_prerender = True
    katex_js_path = str(npm.WEB / "node_modules" / "katex" / "dist" / "katex.min.js")
    katex_css_path = "katex/katex.min.css"

html_theme = "pydata_sphinx_theme"
html_static_path = ["static"]
html_css_files = ["page.css", "book.css"]
html_js_files = [(name, {"defer": "defer"}) for name in ("page.js", "tour.js", "book.js")]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_use_index = False  # it would be empty
html_show_search_summary = False  # it would be read over a network, which a file has none of
html_scaled_image_link = False
html_context = {"default_mode": "auto"}
html_sidebars = {name: [] for name in ("index", *DOCUMENTS)}
html_theme_options = {
    "navbar_align": "left",
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 1,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "article_footer_items": [],
    "icon_links": [
        {"name": "Source on GitHub", "url": f"https://github.com/{SLUG}", "icon": "fa-brands fa-github"}
    ],
}
