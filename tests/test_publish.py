"""What leads readers here: the repository's name everywhere, and the workflow that publishes the pages."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tools import publish, set_repo

ROOT = Path(__file__).resolve().parent.parent
SLUG = set_repo.present_slug(ROOT)
PAGES = set_repo.pages_address(SLUG)
WORKFLOWS = {path.stem: path for path in (ROOT / ".github" / "workflows").glob("*.yml")}


@pytest.fixture
def checkout(tmp_path):
    """A copy of this repository's files under git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def make(folder, *arguments):
    command = ["make", "--no-print-directory", f"PYTHON={sys.executable}", f"PY={sys.executable}", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


# --- make repo, make publish-check ---------------------------------------------------------------------


def named_in(folder):
    """Files that hold the present name, found without what finds it."""
    names = (SLUG.encode(), PAGES.encode())
    return [file for file, text in set_repo.text_files(folder).items() if any(name in text for name in names)]


def test_one_command_names_the_repository_everywhere(checkout):
    named = named_in(checkout)
    assert {checkout / "README.md", checkout / "pyproject.toml", checkout / "CITATION.cff"} <= set(named)

    assert sorted(set_repo.set_repo(checkout, "ada/new-course")) == sorted(named)
    assert set_repo.present_slug(checkout) == "ada/new-course"
    assert named_in(checkout) == []
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"https://[\w./-]+", readme)[0] == "https://ada.github.io/new-course/"

    set_repo.set_repo(checkout, SLUG)
    assert all(file.read_bytes() == (ROOT / file.relative_to(checkout)).read_bytes() for file in named)


def test_a_longer_name_that_contains_the_slug_stays(checkout):
    longer = f"{SLUG}-fork, another{SLUG}, {PAGES}2, a.{PAGES}; but github.com/{SLUG}.git is ours"
    (checkout / "note.md").write_text(longer)
    set_repo.set_repo(checkout, "ada/new-course")
    assert (checkout / "note.md").read_text() == longer.replace(f"com/{SLUG}", "com/ada/new-course")


@pytest.mark.parametrize("slug", ["", "course", "a/b/c", "https://github.com/a/b", "a b/c"])
def test_a_malformed_name_is_refused(checkout, slug):
    with pytest.raises(ValueError, match="REPO must be of the form owner/name"):
        set_repo.set_repo(checkout, slug)


def test_publish_check_names_each_line_until_the_repository_has_its_name(checkout):
    make(checkout, "repo", f"REPO={set_repo.PLACEHOLDER}")
    lines = (checkout / "README.md").read_text(encoding="utf-8").splitlines()
    address = set_repo.pages_address(set_repo.PLACEHOLDER)
    numbers = [
        number
        for number, line in enumerate(lines, start=1)
        if set_repo.PLACEHOLDER in line or address in line
    ]
    unnamed = make(checkout, "publish-check")
    assert unnamed.returncode != 0 and "make repo REPO=owner/name" in unnamed.stderr
    said = unnamed.stdout.splitlines()
    assert [line for line in said if line.startswith("README.md:")] == [f"README.md:{n}" for n in numbers]
    assert any(line.startswith("pyproject.toml:") for line in said)

    make(checkout, "repo", "REPO=ada/new-course")
    named = make(checkout, "publish-check")
    assert (named.returncode, named.stdout) == (0, "This is ada/new-course, everywhere.\n")


# --- the workflows -------------------------------------------------------------------------------------


def workflow(name):
    """A workflow as GitHub reads it, but for `on`, which YAML 1.1 reads as True."""
    return yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))


def steps(name):
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


def commands(name):
    return [step["run"] for step in steps(name) if "run" in step]


def test_a_workflow_may_do_no_more_than_it_has_to():
    allowed = {(name, None): workflow(name)["permissions"] for name in WORKFLOWS}
    assert set(map(str, allowed.values())) == {"{'contents': 'read'}"}
    jobs = {
        (name, job): content["permissions"]
        for name in WORKFLOWS
        for job, content in workflow(name)["jobs"].items()
        if "permissions" in content
    }
    assert jobs == {
        ("pages", "build"): {"contents": "read", "pages": "read"},
        ("pages", "deploy"): {"pages": "write", "id-token": "write"},
    }


def test_pages_are_published_once_they_are_built_and_one_run_at_a_time():
    pages = workflow("pages")
    build, deploy = pages["jobs"]["build"], pages["jobs"]["deploy"]
    tested = {"workflows": [workflow("test")["name"]], "types": ["completed"], "branches": ["main"]}
    assert pages[True] == {"workflow_run": tested, "workflow_dispatch": None}
    assert "workflow_run.event == 'push' && github.event.workflow_run.conclusion == 'success'" in build["if"]
    assert build["steps"][0]["with"]["ref"] == "${{ github.event.workflow_run.head_sha || github.sha }}"
    assert pages["concurrency"] == {"group": "pages", "cancel-in-progress": False}
    assert deploy["needs"] == "build" and deploy["environment"]["name"] == "github-pages"
    assert deploy["environment"]["url"] == f"${{{{ steps.{deploy['steps'][0]['id']}.outputs.page_url }}}}"
    done = [step.get("run") or step["uses"].partition("@")[0] for step in build["steps"] + deploy["steps"]]
    assert done == [
        "actions/checkout",
        "actions/setup-python",
        "make publish-check",
        "actions/configure-pages",
        "make site",
        "actions/upload-pages-artifact",
        "actions/deploy-pages",
    ]


def test_actions_are_those_of_github_itself_in_one_version_each():
    used = {step["uses"] for name in WORKFLOWS for step in steps(name) if "uses" in step}
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in used)
    assert len({action.partition("@")[0] for action in used}) == len(used)


def test_a_stuck_run_ends():
    limits = {
        (name, job): content.get("timeout-minutes")
        for name in WORKFLOWS
        for job, content in workflow(name)["jobs"].items()
    }
    assert limits == {("test", "test"): 75, ("pages", "build"): 75, ("pages", "deploy"): 10}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_runs_what_there_is(name):
    offered = {line.split()[0] for line in make(ROOT, "--silent", "help").stdout.splitlines()}
    for command in commands(name):
        words = command.split()
        assert (words[0] == "make" and set(words[1:]) <= offered) or (ROOT / command).is_file(), command


def test_the_site_is_made_of_the_book_and_its_slides():
    """The chat page weighs 100 MB: it is there if somebody built it."""
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^site: book ##", rules, re.MULTILINE)
    assert "decks_written(" in (ROOT / "tools" / "book" / "__main__.py").read_text(encoding="utf-8")


# --- the site ------------------------------------------------------------------------------------------


PAGE = '<a href="../slides/01.html">slides</a> <a href="02.html#a">02</a> <img src="../pictures/a.png">'
DECK = '<a href="../book/01.html#b">book</a> <a href="../book/">start</a> <a href="../lora-chat/index.html">chat</a>'


def write(folder, **pages):
    folder.mkdir(parents=True)
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")


def links(page):
    return re.findall(r'(?:href|src)="([^"]*)"', page.read_text(encoding="utf-8"))


def test_the_site_is_the_book_with_the_rest_beside_it(checkout):
    """`make site` of the workflow, but for the book itself, which takes minutes."""
    build = checkout / "build"
    write(build / "book", index=PAGE)
    write(build / "book" / "frames")
    write(build / "book" / "_static" / "katex")
    (build / "book" / "_static" / "katex" / "katex.min.css").touch()
    (build / "book" / "frames" / "a.webp").write_bytes(b"\x00\xff")
    write(build / "slides", index=DECK)
    write(build / "lora-chat", index="chat")
    write(build / "site", old="of an earlier build")
    [command] = [command for command in commands("pages") if command == "make site"]
    done = make(checkout, "--old-file=book", *command.split()[1:])
    assert done.returncode == 0, done.stderr
    assert "(book, slides, lora-chat)" in done.stdout and "5 files" in done.stdout
    [upload] = [step for step in steps("pages") if "upload-pages-artifact" in step.get("uses", "")]
    site = checkout / upload["with"]["path"]
    assert sorted(str(file.relative_to(site)) for file in site.rglob("*") if file.is_file()) == [
        "_static/katex/katex.min.css",
        "chat/index.html",
        "frames/a.webp",
        "index.html",
        "slides/index.html",
    ]
    assert links(site / "index.html") == ["slides/01.html", "02.html#a", "../pictures/a.png"]
    assert links(site / "slides" / "index.html") == ["../01.html#b", "../", "../chat/index.html"]
    assert links(build / "book" / "index.html")[0] == "../slides/01.html"  # what was built stays as it was


@pytest.mark.parametrize("missing", publish.NEEDED)
def test_half_a_site_is_refused(tmp_path, missing):
    for file in set(publish.NEEDED) - {missing}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(FileNotFoundError, match=f"{missing}.*make book"):
        publish.gather(tmp_path, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_readme_leads_to_the_pages_first():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((https:[^)]*)\)", text)[0] == f"https://{PAGES}/"
    assert f"(docs/before_after.png)](https://{PAGES}/)" in text
