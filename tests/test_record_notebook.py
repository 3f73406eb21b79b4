"""A notebook's record holds what its cells print, and no picture."""

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.build_notebooks import execute
from tools.record_notebook import printed


def test_text_is_recorded_and_silent_cells_are_not(tmp_path):
    sources = ["x = 2", "print('two'); x * 21"]
    notebook = new_notebook(cells=[new_markdown_cell("words"), *map(new_code_cell, sources)])
    execute(notebook, "test", tmp_path)
    assert printed(notebook) == [{"source": sources[1], "text": "two\n\n42"}]
