"""Parts of commands that a user can paste into a shell as they are."""

from __future__ import annotations

from shlex import quote

from iprobe.text import safe_text


def argument(value: object) -> str:
    """A value as one word of a command."""
    return quote(safe_text(str(value), 300))


def db_option(db: str | None) -> str:
    """The ``--db`` that leads to the same history, with a blank before it; nothing where it is the usual one."""
    if db is None:
        return ""
    # A server's URL may hold a password, which has no business in what is pasted somewhere.
    return " --db URL" if "://" in db and not db.startswith("sqlite") else f" --db {argument(db)}"
