"""Build the notebooks people open from the sources people edit.

    python -m tools.build_notebooks [--check | --times] [--force] [NN ...]

One source, ``notebooks/src/NN_name.py`` (jupytext's py:percent format), makes two executed notebooks:
``notebooks/NN_name.ipynb`` for the learner and ``notebooks/solutions/NN_name.ipynb`` with the answers filled
in. (NN may carry a letter: 05b is the second half of 05.) A notebook whose cells already equal its source is
skipped; ``--force`` executes it again, for a change that lies in the package. ``--check`` executes nothing and
fails when a notebook and its source differ. ``--times`` prints the minutes that each notebook takes (see
tools/reading_time.py).

What a source holds
-------------------
The first cell is Markdown and starts with the title (``# ...``); the builder adds a line of links below it. The
first code cell holds the imports; the builder puts the set-up above them, in the same cell, and folds it. A
source repeats neither. In its text the builder fills in what it counts, so that no number there can rot::

    {minutes}                    in the first cell: what the notebook takes
    {course map}                 rows of a table: every notebook, its title, its minutes
    {course hours} {core hours}  the sums over all notebooks

The other cells mean what their tags say::

    # %% tags=["exercise"]      the learner's stub; left out of the solutions
    # %% tags=["solution"]      the code that replaces the stub; folded text in the learner's notebook
    # %% [markdown] tags=["hint"]   folded text in both
    # %% tags=["measured"]      time, memory or progress: the stored output stays while the cell's source is
                                unchanged, and nbval does not compare it; delete the notebook to measure anew
    # %% tags=["nbval-ignore-output"]   executed anew each time, not compared by nbval
    # %% tags=["claim"]         asserts what the page says, for CI; folded, and shows nothing
    # %% tags=["slide-skip"]    not on the slides (tools/slides), nor in their notes; of text, too
    # %% tags=["slide-split"]   begins a new slide

Each exercise cell is followed by its solution (a hint may stand between), then usually by its ``check``. Code
further down must not need the learner's answer, since the learner's notebook is executed with the stub.

What is normalised, so that a rebuild on one machine changes no byte: cell ids (a hash of the cell's source),
execution counts, timings, the kernel's version, widget views and state, and text streams (joined, carriage
returns applied).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lora_edu.llm.files import write_text
from tools import reading_time
from tools.reading_time import Minutes, tags_of
from tools.set_repo import present_slug
from tools.words import ENGLISH, Words

ROOT = Path(__file__).resolve().parents[1]
SOURCES = "[0-9][0-9]*_*.py"  # two digits, and a letter where a notebook has a second half
SLIDE_TAGS = {"slide-skip", "slide-split"}
TAGS = {
    "exercise",
    "solution",
    "hint",
    "measured",
    "nbval-ignore-output",
    "raises-exception",
    "claim",
} | SLIDE_TAGS
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
CELL_TIMEOUT_SECONDS = 1800
# Progress bars and notices would differ from run to run; the folder alone says which language it is.
KERNEL_ENVIRONMENT = {
    "LORA_EDU_LANGUAGE": "",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


# Colab then opens these on a GPU, its free T4, unless the reader chooses otherwise.
GPU_NOTEBOOKS = {"10"}
ON_A_GPU = {"accelerator": "GPU", "colab": {"gpuType": "T4"}}
# JupyterLab and nbconvert fold by the first, Colab by the second.
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}
CLAIM_TITLE = "#@title Checks what this page says"  # all that Colab shows of a folded cell

SETUP = """\
#@title Set-up: run me first
# Finds the course, or fetches it (Colab). Installs only what is missing.
import subprocess
import sys
from pathlib import Path

url = "https://github.com/{slug}"
clone = Path.cwd() / url.split("/")[-1]
folders = [Path.cwd(), *Path.cwd().parents, clone]
root = next((folder for folder in folders if (folder / "lora_edu" / "__init__.py").is_file()), clone)
if not root.exists():
    subprocess.run(["git", "clone", "--depth=1", url, str(clone)], check=True)
sys.path.insert(0, str(root))
from lora_edu.classroom.doctor import ensure_packages

ensure_packages()"""
SETUP_TITLE = SETUP.partition("\n")[0]


class BuildError(Exception):
    """A source that breaks the rules above, or a cell that failed."""


# ---------------------------------------------------------------- from source to cells


def fold(summary: str, body: str) -> str:
    """Markdown that opens on a click, on GitHub too."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def read_source(source: Path) -> list[NotebookNode]:
    """The cells of a source, checked against the rules in this module's docstring."""
    cells = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent").cells
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        raise BuildError(f"{source.name}: the first cell must be Markdown and start with '# title'")
    for number, cell in enumerate(cells, start=1):
        if unknown := set(tags_of(cell)) - TAGS:
            raise BuildError(
                f"{source.name}, cell {number}: unknown tags {sorted(unknown)}; known are {sorted(TAGS)}"
            )
    roles = [role for cell in cells for role in tags_of(cell) if role in ("exercise", "solution")]
    if roles != ["exercise", "solution"] * (len(roles) // 2):
        raise BuildError(f"{source.name}: each exercise cell needs one solution cell after it, found {roles}")
    first_code = next((cell for cell in cells if cell.cell_type == "code"), None)
    if first_code is not None and not re.search(r"^(import|from) ", first_code.source, re.M):
        raise BuildError(f"{source.name}: the first code cell is folded, so it must hold the imports")
    return cells


def product_cells(cells: Sequence[NotebookNode], solutions: bool) -> Iterable[NotebookNode]:
    """The cells of one product: stub and folded solution, or the solution alone."""
    for cell in cells:
        tags = tags_of(cell)
        if "exercise" in tags and solutions:
            continue
        if "solution" in tags and not solutions:
            yield new_markdown_cell(fold("Solution", f"```python\n{cell.source}\n```"))
        elif "hint" in tags:
            yield new_markdown_cell(fold("Hint", cell.source))
        elif cell.cell_type == "markdown":
            yield new_markdown_cell(cell.source, metadata=tagged(SLIDE_TAGS.intersection(tags)))
        else:
            kept = [*tags, "nbval-ignore-output"] if "measured" in tags else tags
            metadata = tagged(kept)
            if "claim" in tags:
                yield new_code_cell(f"{CLAIM_TITLE}\n{cell.source}", metadata=metadata | FOLDED)
            else:
                yield new_code_cell(cell.source, metadata=metadata)


def tagged(tags: Iterable[str]) -> dict[str, list[str]]:
    """A cell's metadata; none without tags."""
    return {"tags": list(tags)} if tags else {}


def add_ids(cells: Sequence[NotebookNode], number: str) -> None:
    """Give each cell an id that changes only when its own source does."""
    seen: dict[str, int] = {}
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = f"{number}-{digest}" + (f"-{seen[digest]}" if seen[digest] > 1 else "")


def links(slug: str, path: str, words: Words) -> str:
    """The line of links below the title of the notebook that lies at `path` in the repository `slug`."""
    # Words, not badges: a picture needs a network. The sheets lie beside the notebooks, so their links open in
    # JupyterLab too, from notebooks/, from notebooks/solutions/ and from a learner's work/.
    up = "../" * path.count("/")
    colab = f"https://colab.research.google.com/github/{slug}/blob/main/{path}"
    binder = f"https://mybinder.org/v2/gh/{slug}/HEAD?urlpath=lab/tree/{path}"
    pairs = [
        (words.phrase("Open in Colab"), colab),
        (words.phrase("Open in Binder"), binder),
        (words.phrase("Notation"), f"{up}docs/notation.md"),
        (words.phrase("Glossary"), f"{up}docs/glossary.md"),
    ]
    line = " · ".join(f"[{name}]({target})" for name, target in pairs)
    return f"{line}\n\n{words.notice()}".rstrip()


FOLDED_TEXT = re.compile(r"<details>\n<summary>(\w+)</summary>\n\n(.*)\n\n</details>", re.DOTALL)


def in_words(cell: NotebookNode, words: Words) -> str:
    """A Markdown cell's text in the notebook's language; of a solution, which is code, the word over it alone."""
    folded = FOLDED_TEXT.fullmatch(cell.source)
    if folded is None:
        return words.cell(cell.id, cell.source)
    if folded[1] == "Solution":
        return fold(words.phrase("Solution"), folded[2])
    return fold(words.phrase("Hint"), words.cell(cell.id, folded[2]))


def compose(source: Path, path: str, slug: str, words: Words = ENGLISH) -> NotebookNode:
    """The notebook that `source` stands for, not yet executed.

    Parameters
    ----------
    source : Path
        ``notebooks/src/NN_name.py``.
    path : str
        Where the product lies in the repository; the badges point there.
    slug : str
        ``owner/name`` of the repository.
    words : Words
        The language of its text.
    """
    source_cells = read_source(source)
    cells = list(product_cells(source_cells, solutions="/solutions/" in path))
    number = source.stem.split("_")[0]
    add_ids(cells, number)
    # After the ids: they must not change with the language, the repository's name, or another section's length.
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = in_words(cell, words)
    first_code = next((cell for cell in cells if cell.cell_type == "code"), None)
    if first_code is not None:
        first_code.source = f"{SETUP.format(slug=slug)}\n\n{first_code.source}"
        first_code.metadata.update(FOLDED)
        first_code.id = f"{number}-setup"
    title, _, rest = cells[0].source.partition("\n")
    rest = rest.strip().replace("{minutes}", minutes_in_words(minutes_of(source, source_cells), words))
    cells[0].source = f"{title}\n\n{links(slug, path, words)}\n\n{rest}".rstrip()
    for cell in cells:
        if cell.cell_type == "markdown" and COURSE_PLACEHOLDERS.search(cell.source):
            cell.source = with_course_times(cell.source, source.parent, words)
    return new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            **(ON_A_GPU if number in GPU_NOTEBOOKS else {}),
        },
    )


# ---------------------------------------------------------------- minutes


def minutes_of(source: Path, cells: Sequence[NotebookNode] | None = None) -> Minutes:
    """Minutes that a source takes; `cells` are its own, if they have been read already."""
    try:
        return reading_time.minutes(read_source(source) if cells is None else cells)
    except ValueError as error:
        raise BuildError(f"{source.name}: {error}") from error


def minutes_in_words(minutes: Minutes, words: Words = ENGLISH) -> str:
    """What the head of a notebook says."""
    if minutes.core == minutes.total:
        return words.phrase("{total} minutes", total=minutes.total)
    times = {"total": minutes.total, "core": minutes.core}
    return words.phrase("{total} minutes, or {core} without the sections marked *Deeper*", **times)


def sum_of(times: Iterable[Minutes]) -> Minutes:
    """The sum of the minutes as they are shown, rounded ones."""
    core, total = zip(*times, strict=True)
    return Minutes(sum(core), sum(total))


COURSE_PLACEHOLDERS = re.compile(r"\{(course map|course hours|core hours)\}")


def course_times(folder: Path, words: Words = ENGLISH) -> dict[str, str]:
    """The map of the course, as rows of a Markdown table, and its hours, by the names of their placeholders."""
    rows, times = [], []
    for source in sorted(folder.glob(SOURCES)):
        cells = read_source(source)
        times.append(minutes_of(source, cells))
        number, title = words.title(cells[0].source).removeprefix("# ").split(" · ", 1)
        rows.append(
            f"| [{number}]({words.link(f'{source.stem}.ipynb')}) | {title} | {times[-1].total} | {times[-1].core} |"
        )
    core, total = (words.number(f"{round(minutes / 30) / 2:g}") for minutes in sum_of(times))
    return {"course map": "\n".join(rows), "course hours": total, "core hours": core}


def with_course_times(text: str, folder: Path, words: Words = ENGLISH) -> str:
    """Fill in the map of the course and its hours."""
    values = course_times(folder, words)
    return COURSE_PLACEHOLDERS.sub(lambda found: values[found[1]], text)


def times_table(times: Mapping[Path, Minutes]) -> str:
    """What ``--times`` prints: core and all minutes of each notebook, and their sums."""
    rows = [(source.stem, *minutes) for source, minutes in times.items()]
    core, total = sum_of(times.values())
    rows = [("notebook", "core", "all"), *rows, ("minutes", core, total)]
    rows.append(("hours", f"{core / 60:.1f}", f"{total / 60:.1f}"))
    return "\n".join(f"{name:<30}{core!s:>6}{total!s:>6}" for name, core, total in rows)


# ---------------------------------------------------------------- execution


def execute(notebook: NotebookNode, name: str, folder: Path) -> None:
    """Run every code cell in `folder`, in place; a failure names the notebook and the cell."""
    for _, error in executed_cells(notebook, name, folder):
        if error:
            raise BuildError(error)


def executed_cells(
    notebook: NotebookNode, name: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[NotebookNode, str | None]]:
    """Run the code cells in one kernel, in place, one after the other.

    Parameters
    ----------
    folder
        Where the kernel stands.
    environment
        What it gets beyond this process's environment.

    Yields
    ------
    tuple
        Each cell, and what went wrong in it, with the names of notebook and cell; None if nothing did. After a kernel
        that died no cell comes.
    """
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_SECONDS,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # not its notice about TCP
        resources={"metadata": {"path": str(folder)}},
    )
    # A given number of threads: else what a busy machine prints of its cores would be stored (lora_edu.llm.threads).
    threads = {"OMP_NUM_THREADS": str(os.cpu_count())}
    with client.setup_kernel(env={**threads, **os.environ, **KERNEL_ENVIRONMENT, **(environment or {})}):
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            print(f"\r{name}: cell {index + 1} of {len(notebook.cells)}", end="", file=sys.stderr, flush=True)
            try:
                client.execute_cell(cell, index)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
                yield cell, f"{name}, cell {index + 1} ({cell.id}) failed:\n{reason}"
                if isinstance(error, DeadKernelError):
                    return
            else:
                yield cell, None
    print(file=sys.stderr)


# ---------------------------------------------------------------- normalisation


def apply_carriage_returns(text: str) -> str:
    """What a terminal still shows: text after a carriage return overwrites the line from its start."""

    def visible(line: str) -> str:
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        return shown

    return "\n".join(visible(line) for line in text.split("\n"))


def join_streams(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """One output for stdout and one for stderr wherever a row of stream outputs stands.

    The kernel cuts streams by the clock, so the cuts and the interleaving differ from run to run.
    """
    joined: list[NotebookNode] = []
    for is_stream, group in itertools.groupby(outputs, key=lambda output: output.output_type == "stream"):
        if not is_stream:
            joined.extend(group)
            continue
        texts = {"stdout": "", "stderr": ""}
        for output in group:
            texts[output.name] += output.text
        joined += [
            new_output("stream", name=name, text=apply_carriage_returns(text))
            for name, text in texts.items()
            if text
        ]
    return joined


def without_widget_views(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Keep of a widget what can be seen without a kernel: its picture or its text."""
    for output in outputs:
        if "data" in output:
            output.data.pop(WIDGET_VIEW, None)
            output.metadata.pop(WIDGET_VIEW, None)
    return [output for output in outputs if output.get("data", True)]


def normalise(notebook: NotebookNode) -> None:
    """Remove, in place, all that differs between two runs on one machine (see the module's docstring)."""
    notebook.metadata.pop("widgets", None)
    code_cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    for count, cell in enumerate(code_cells, start=1):
        cell.execution_count = count
        cell.metadata.pop("execution", None)
        cell.outputs = without_widget_views(join_streams(cell.outputs))
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count


def keep_measured_outputs(notebook: NotebookNode, stored: NotebookNode | None) -> None:
    """Put the stored outputs back into ``measured`` cells whose source, and so whose id, is unchanged."""
    kept = {cell.id: cell.outputs for cell in (stored.cells if stored else []) if "measured" in tags_of(cell)}
    for cell in notebook.cells:
        if "measured" in tags_of(cell) and cell.id in kept:
            cell.outputs = kept[cell.id]
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = cell.execution_count


# ---------------------------------------------------------------- products


def differences(stored: NotebookNode | None, composed: NotebookNode) -> str | None:
    """In words, the first place where a stored notebook is not what its source says; None if it is."""
    if stored is None:
        return "it does not exist"

    def view(cell: NotebookNode) -> tuple[str, str, str, list[str]]:
        return cell.get("id", ""), cell.cell_type, cell.source, tags_of(cell)

    pairs = itertools.zip_longest(map(view, stored.cells), map(view, composed.cells))
    for number, (old, new) in enumerate(pairs, start=1):
        if old != new:
            return f"cell {number} ({(new or old or ('',))[0]}) is not what the source says"
    if any(stored.metadata.get(key) != composed.metadata.get(key) for key in ON_A_GPU):
        return "its metadata do not say whether Colab opens it on a GPU"
    return None


def read_notebook(target: Path) -> NotebookNode | None:
    return nbformat.read(target, as_version=4) if target.exists() else None


def products(source: Path, root: Path) -> list[Path]:
    notebooks = root / "notebooks"
    return [notebooks / f"{source.stem}.ipynb", notebooks / "solutions" / f"{source.stem}.ipynb"]


def selected_sources(numbers: Sequence[str], root: Path) -> list[Path]:
    sources = sorted((root / "notebooks" / "src").glob(SOURCES))
    if missing := [number for number in numbers if not any(s.stem.startswith(f"{number}_") for s in sources)]:
        raise BuildError(f"no source notebooks/src/{missing[0]}_*.py; there are {[s.stem for s in sources]}")
    return [s for s in sources if not numbers or s.stem.split("_")[0] in numbers]


def build(source: Path, target: Path, root: Path = ROOT, force: bool = False, words: Words = ENGLISH) -> bool:
    """Bring one notebook up to date; True if it was executed."""
    path = target.relative_to(root).as_posix()
    notebook, stored = compose(source, path, present_slug(root), words), read_notebook(target)
    if not force and differences(stored, notebook) is None:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    execute(notebook, path, target.parent)
    normalise(notebook)
    keep_measured_outputs(notebook, stored)
    nbformat.validate(notebook)
    write_text(target, nbformat.writes(notebook) + "\n")
    return True


def check(sources: Sequence[Path], root: Path = ROOT) -> list[str]:
    """One line for each notebook that differs from its source or has none."""
    slug = present_slug(root)
    problems = []
    for source in sources:
        for target in products(source, root):
            path = target.relative_to(root).as_posix()
            if difference := differences(read_notebook(target), compose(source, path, slug)):
                problems.append(f"{path}: {difference}")
    known = {target for source in selected_sources([], root) for target in products(source, root)}
    found = {*(root / "notebooks").glob("*.ipynb"), *(root / "notebooks" / "solutions").glob("*.ipynb")}
    return problems + [
        f"{path.relative_to(root).as_posix()}: it has no source" for path in sorted(found - known)
    ]


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description="Build the notebooks from notebooks/src.")
    parser.add_argument("numbers", nargs="*", metavar="NN", help="such as 05 or 05b; all notebooks if none")
    parser.add_argument(
        "--check", action="store_true", help="execute nothing; fail where notebook and source differ"
    )
    parser.add_argument("--times", action="store_true", help="execute nothing; print each notebook's minutes")
    parser.add_argument("--force", action="store_true", help="execute also what is up to date")
    options = parser.parse_args(arguments)
    try:
        sources = selected_sources(options.numbers, root)
        if options.times:
            print(times_table({source: minutes_of(source) for source in sources}))
            return 0
        if options.check:
            problems = check(sources, root)
            print("\n".join(problems) or f"{len(sources)} sources and their notebooks agree")
            return 1 if problems else 0
        for source in sources:
            for target in products(source, root):
                executed = build(source, target, root, options.force)
                print(f"{target.relative_to(root)}: {'built' if executed else 'up to date'}")
    except BuildError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
