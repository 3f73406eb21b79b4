"""The child: gives up what it can, then answers the parent's calls on the pipes that were its input and output.

Run by `sandbox` as ``python -m lora_edu.classroom.grade.runner SETTINGS``, settings as JSON. The guards come before
PyTorch where they take a process of one thread, and after it where PyTorch would not load under them; all come before
the first line of a student.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from lora_edu.classroom.grade import guards


def main() -> None:
    """Take up the guards, say which of them hold, and answer until the parent hangs up."""
    settings = json.loads(sys.argv[1])
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    missing = {}
    if settings["namespaces"]:
        missing["namespaces"] = guards.held(guards.enter_namespaces, settings["mounts"])
    answers = importlib.import_module("lora_edu.classroom.grade.answers")  # PyTorch with it
    answers.warm_up(settings["counts"])
    missing["limits"] = guards.held(guards.limit, settings["memory"], settings["seconds"])
    if settings["namespaces"]:
        missing["processes"] = guards.held(guards.hide_processes)
    missing["rights"] = guards.held(guards.drop_rights)
    missing["end"] = guards.held(guards.end_with_parent)  # other rights undo it
    missing["calls"] = guards.held(guards.filter_calls)
    answers.serve(requests, replies, {guard: why for guard, why in missing.items() if why})


if __name__ == "__main__":
    main()
