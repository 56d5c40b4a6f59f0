"""Database URLs: read, and shown without what must not be shown."""

import re

from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from search.errors import DatabaseError, quoted

EXAMPLE = (
    "give --db sqlite:///FILE.db (relative), sqlite:////FOLDER/FILE.db (absolute) "
    "or postgresql://USER:PASSWORD@HOST/DATABASE"
)
BEGIN = "start a search with netsieve run"
ENCODING = "write @ / : % in a user or password as %40 %2F %3A %25"
LONGEST_SHOWN = 200  # characters
# Of those after '?': others may be secret, or hold parts of what is.
SHOWN_OPTION = re.compile(r"(host|sslmode)=[\w.,/-]*", re.ASCII)


def shown(url: str) -> str:
    """The URL fit for messages: no password, no options that may be secret, no control characters."""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        return "***" if set("@:=") & set(url) else quoted(url, LONGEST_SHOWN)
    is_file = parsed.get_backend_name() == "sqlite"
    if _is_ambiguous(parsed, url) or (not is_file and set("@:#= ") & set(parsed.database or "")):
        return f"{parsed.drivername}://***"
    bare, _, options = url.partition("?")
    if parsed.password is not None:
        bare = parsed.set(query={}).render_as_string(hide_password=True)
    # An @ after the ? means that the ? may be the password's.
    told = [option for option in options.split("&") if SHOWN_OPTION.fullmatch(option) and "@" not in options]
    if len(told) < len(options.split("&")):
        told.append("***")
    return quoted(bare + ("?" + "&".join(told) if options else ""), LONGEST_SHOWN)[1:-1]


def parse(url: str) -> URL:
    """The parts of a URL. Raises DatabaseError, which does not show them: they may be parts of a password."""
    hint = f"{ENCODING}; " if "@" in url else ""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise DatabaseError(f"--db {shown(url)}: is no database URL; {hint}{EXAMPLE}") from None
    if _is_ambiguous(parsed, url):
        raise DatabaseError(f"--db {shown(url)}: has more than one @; {hint}{EXAMPLE}")
    return parsed


def has_password(url: str) -> bool:
    """Whether a password stands in the URL, before the host or among the options."""
    parsed = parse(url)
    return parsed.password is not None or not {"password", "sslpassword"}.isdisjoint(parsed.query)


def _is_ambiguous(parsed: URL, url: str) -> bool:
    """Whether a part of the password may have been taken for the host, or for what follows it."""
    return parsed.get_backend_name() != "sqlite" and url.count("@") > 1
