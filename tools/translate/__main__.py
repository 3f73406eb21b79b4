"""The command: ``python -m tools.translate extract|status|build``; see the package's docstring."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.build_notebooks import BuildError
from tools.translate import catalogs, products
from tools.translate.guard import TranslationError
from tools.translate.texts import PACKAGE, ROOT


def extract(language: str, numbers: Sequence[str], root: Path) -> None:
    """Refresh the named catalogs, or those that are there, and the package's."""
    for catalog in [PACKAGE, *catalogs.chosen(language, numbers, root)]:
        path = catalogs.extract(language, catalog, root)
        print(f"{path.relative_to(root)}: {catalogs.count(language, catalog, root).total} texts")


def status(language: str, root: Path) -> None:
    """Print how much of each catalog is translated."""
    print(f"{language:<10}{'texts':>6}{'done':>6}{'fuzzy':>6}{'':>6}")
    for catalog in [PACKAGE, *catalogs.present(language, root)]:
        done = catalogs.count(language, catalog, root)
        print(f"{catalog:<10}{done.total:>6}{done.translated:>6}{done.fuzzy:>6}{done.percent:>4} %")
        catalogs.translations(language, catalog, root)  # refuses what lost something


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.translate", description="Translate the course.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, told in [
        ("extract", "write or refresh .po files"),
        ("build", "build what is translated"),
        ("status", "print how much is translated"),
    ]:
        command = commands.add_parser(name, help=told)
        command.add_argument(
            "language", metavar="LANG", nargs="?" if name != "extract" else None, help="such as de"
        )
        if name != "status":
            command.add_argument(
                "numbers", nargs="*", metavar="NN", help="such as 04; those with a .po if none"
            )
        if name == "build":
            command.add_argument("--force", action="store_true", help="execute also what is up to date")
            command.add_argument(
                "--check", action="store_true", help="build nothing; fail where something is old"
            )
    options = parser.parse_args(arguments)
    try:
        languages = [catalogs.checked_language(options.language)] if options.language else None
        for language in languages or catalogs.present_languages(root):
            if options.command == "extract":
                extract(language, options.numbers, root)
            elif options.command == "status":
                status(language, root)
            elif not options.check:
                products.build(language, options.numbers, root, options.force)
            elif problems := products.check(language, root):
                print("\n".join(problems), file=sys.stderr)
                return 1
    except (BuildError, TranslationError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
