"""Text that people type and paste: cleaned, and folded for comparing."""

import re
import unicodedata

# Unicode's default-ignorable code points, and three like them. They show nothing, and come with what is copied from
# chats and pages.
IGNORABLE = (
    "\u00ad\u034f\u061c\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Those that mean something within a text: joiners, variation selectors, the tags of flags, and the order of directions.
MEANINGFUL = (
    "\u061c\u180b-\u180d\u180f\u200c-\u200f\u202a-\u202e\u2066-\u2069\ufe00-\ufe0f"
    "\U000e0020-\U000e007f\U000e0100-\U000e01ef"
)
_DROPPED = re.compile(f"[{IGNORABLE}]")
_DROPPED_IN_TEXT = re.compile(f"(?![{MEANINGFUL}])[{IGNORABLE}]")
_EDGES = re.compile(rf"^[\s{IGNORABLE}]+|[\s\u200b-\u200f\u061c\u202a-\u202e\u2060-\u206f\ufeff]+$")
_CLOSER = dict.fromkeys("\u202a\u202b\u202d\u202e", "\u202c") | dict.fromkeys("\u2066\u2067\u2068", "\u2069")

# What NFKD doesn't unify: ya without dots, ta marbuta, alif wasla, Persian kaf and ya. Tatweel is removed.
_LETTERS = str.maketrans("ىةٱکی", "يهاكي", "ـ")


def visible(value: str) -> str:
    """Drop everything invisible: for values in which nothing invisible can mean anything."""
    return _DROPPED.sub("", value).strip()


def plain(value: str) -> str:
    """`visible`, with characters in their usual width: `＋９` is `+9`. For numbers, addresses, codes and searches."""
    return one_line("".join(map(_usual_width, visible(value))))


def _usual_width(c: str) -> str:
    by_width = unicodedata.decomposition(c).startswith(("<wide>", "<narrow>", "<noBreak>"))
    return unicodedata.normalize("NFKC", c) if by_width else c


def one_line(value: str) -> str:
    """Clean a text that people read: one line, single spaces, nothing that hides or that turns what follows it around.

    It keeps joiners, without which Persian and emoji fall apart. A text without anything visible is empty.
    """
    shown = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Cn", "Co") or c == "\u2800" else c for c in value)
    shown = _EDGES.sub("", _DROPPED_IN_TEXT.sub("", shown))
    if not any(unicodedata.category(c)[0] in "LNPS" for c in shown):
        return ""
    return " ".join(_balanced(shown).split())


def several_lines(value: str) -> str:
    """`one_line` for each line of a text."""
    return "\n".join(map(one_line, value.strip().splitlines()))


def _balanced(value: str) -> str:
    """Close what changes the direction, and drop what closes nothing."""
    kept, open_ = [], list[str]()
    for c in value:
        if c in _CLOSER:
            open_.append(_CLOSER[c])
        elif c in _CLOSER.values():
            if not open_ or open_[-1] != c:
                continue
            open_.pop()
        kept.append(c)
    return "".join(kept + open_[::-1])


def email_address(value: str) -> str:
    """An address, also as mail programs and pages copy it: `Sara <sara@example.com>`, `mailto:sara@example.com`."""
    address = re.sub(r"^.*<([^<>]*)>$", r"\1", plain(value))
    return re.sub(r"(?i)^mailto:|\?.*$|[,;.]$", "", address).strip()


def fold(text: str) -> str:
    """Fold a text for searching: no case, accents, harakat or invisible characters; one form of alif, ya and ha; plain
    digits.

    SQLite's own full-text folding knows nothing of the Arabic part: to it, أحمد and احمد are different words.
    """
    decomposed = unicodedata.normalize("NFKD", visible(text).casefold())
    plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    digits = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in plain)
    return " ".join(digits.translate(_LETTERS).split())
