"""The token of control endpoints: from a file or the environment, never from arguments, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hardpoint.environment import CONTROL_TOKEN, CONTROL_TOKEN_FILE
from hardpoint.errors import HardpointError

MINIMUM = 16  # characters; 32 of them in hexadecimal are 128 bits
MAXIMUM = 4096


class BadToken(HardpointError, ValueError):
    """The token cannot be read or is none; the message says where it was looked for, and never what it is."""


@dataclass(frozen=True, repr=False)
class Token:
    """A shared secret. Its text is in no repr, so that it ends in no log and no traceback."""

    secret: str

    def __repr__(self) -> str:
        return "Token(...)"

    def matches(self, given: str) -> bool:
        """Whether `given` is the token. Takes the same time whatever `given` is."""
        ours, theirs = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (self.secret, given))
        return hmac.compare_digest(ours, theirs)

    def matches_header(self, authorization: str) -> bool:
        """Whether an ``Authorization`` header brings the token, as ``Bearer <token>``."""
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and self.matches(given.strip())


def read_token(environment: Mapping[str, str] | None = None) -> Token | None:
    """The token in the file that ``HARDPOINT_CONTROL_TOKEN_FILE`` names, else in ``HARDPOINT_CONTROL_TOKEN``; or None.

    Raises:
        BadToken: the file cannot be read, may be read or changed by other users, or holds no token of 16 to 4096
            visible characters in one line.
    """
    variables = os.environ if environment is None else environment
    name = variables.get(CONTROL_TOKEN_FILE, "").strip()
    if name:
        return Token(_checked(_read(Path(name)), f"the file {name}"))
    text = variables.get(CONTROL_TOKEN, "").strip()
    return Token(_checked(text, CONTROL_TOKEN)) if text else None


def _read(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
            raise BadToken(
                f"{CONTROL_TOKEN_FILE} names {path}, which other users may read or change ({stat.filemode(mode)}). "
                f"Run chmod 600 {path}."
            )
        with path.open(encoding="utf-8") as file:
            return file.read(MAXIMUM + 2)
    except (OSError, UnicodeDecodeError) as error:
        raise BadToken(f"{CONTROL_TOKEN_FILE} names {path}, which cannot be read: {error}.") from None


def _checked(text: str, where: str) -> str:
    token = text.strip()
    if not MINIMUM <= len(token) <= MAXIMUM or not token.isascii() or not token.isprintable() or " " in token:
        raise BadToken(
            f"Expected one line of {MINIMUM} to {MAXIMUM} visible ASCII characters in {where}, found something else "
            f"({len(token)} characters). Make one with: python3 -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return token
