"""Text from outside as people may see it: nothing in it steers a terminal, and no secret is in it.

Names of files, classes and data sets come from whoever made them. On a terminal, an ESC sequence can delete lines or
change the title of the window; a bidirectional override shows a name backwards; a newline adds a line that looks like
ours. So such characters are shown as escapes. The names themselves stay as they are, for example in JSON.
"""

import re
import unicodedata

_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}  # control characters, halves of characters, ends of lines
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # of the direction
_HIDDEN = "***"

# `user:password@`, also where the password contains a slash, as AWS keys do. A port is no password: http://host:80/a@b.
_PASSWORD = re.compile(r"(?<=://)[^\s/@:\[]*:(?!:|\d{1,5}/)[^\s@]*@")
_HTTP_USER = re.compile(r"(?i)(?<=http://|ttps://)[^\s/@:]+@")  # a token in the place of the user
_SIGNED = re.compile(
    r"(?i)([?&](?:x-amz-[a-z-]+|x-goog-[a-z-]+|sig|signature"
    r"|[\w-]*(?:token|secret|password|api_?key|access_?key)\w*)=)[^&\s'\"]+"
)


def printable(text: object) -> str:
    """The text on one line, with escapes for control characters and for changes of direction, and without secrets."""
    plain = without_secrets(str(text))
    return plain if plain.isascii() and plain.isprintable() else "".join(map(_escaped, plain))


def without_secrets(text: str) -> str:
    """The text with `***` for passwords, tokens and signatures in URLs."""
    text = _PASSWORD.sub(f"{_HIDDEN}@", text)
    return _SIGNED.sub(rf"\1{_HIDDEN}", _HTTP_USER.sub(f"{_HIDDEN}@", text))


def has_secret(text: str) -> bool:
    """Whether a URL in the text contains a password, a token or a signature."""
    return without_secrets(text) != text


def _escaped(character: str) -> str:
    unseen = character in _TURNS or unicodedata.category(character) in _UNSEEN
    return character.encode("unicode_escape").decode() if unseen else character
