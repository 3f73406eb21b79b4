"""The commit of each hub model that the course was pinned to, by its id; written by tools/pin_revisions.py.

Without an entry the hub's newest is taken, and only its shape is checked.
"""

REVISIONS: dict[str, str] = {}
