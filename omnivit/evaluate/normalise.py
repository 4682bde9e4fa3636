"""When two answers are the same: their text without case, enclosing quotes and final punctuation.

What changes the meaning of an answer stays: signs, decimal points, units, operators, single letters. Knows no model and
no tensor.
"""

from __future__ import annotations

import re
import unicodedata

_SPELLINGS = str.maketrans("‘’“”−‐‑", "''\"\"---")
"""Typographic quotes, minus and hyphens, which NFKC keeps apart from those of a keyboard."""
_PAIRS = (
    ('"', '"'),
    ("'", "'"),
    ("«", "»"),
    ("「", "」"),
    ("(", ")"),
    ("[", "]"),
    ("{", "}"),
    ("**", "**"),
    ("`", "`"),
)
_ENDINGS = ".,;:!?。、…"
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])'(?=[^\W\d_])")
_ARTICLE = re.compile(r"^(?:an?|the) (?=\w)(?!(?:and|or|nor|but) )")
_INITIALS = re.compile(r"(?<!\w)(?:[^\W\d_]\.){2,}")
_THOUSANDS = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\w,])")
_DECIMAL = re.compile(r"(?<![\w.,])(\d*)\.(\d+)(?![\w]*[.,]?\d)(?!\.\d)")
_COMMA = re.compile(r"\s*([,;、])(?!\d)\s*")
_NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Scripts that write words without spaces: Thai, Lao, Myanmar, Khmer, kana, Han."""
_TOKEN = re.compile(rf"[{_NO_SPACES}]|[^\s{_NO_SPACES}]+")


def normalise(text: str) -> str:
    """An answer without what does not change its meaning.

    Unicode's compatibility forms are unified (NFKC) and case is ignored. So are quotes, brackets or Markdown around the
    whole answer, punctuation at its end, apostrophes inside words, full stops of initials, an article at its beginning,
    and the amount of white space. Numbers are compared by value: 1,000 is 1000, and 1.50 is 1.5. An answer of nothing
    else ("A", "?") stays as it is.
    """
    unified = " ".join(unicodedata.normalize("NFKC", text).translate(_SPELLINGS).casefold().split())
    without_stops = _INITIALS.sub(lambda initials: initials[0].replace(".", ""), unified)
    bare = _without_enclosure(_APOSTROPHE.sub("", without_stops))
    bare = _ARTICLE.sub("", _COMMA.sub(r"\1 ", bare).strip())
    return _numbers_by_value(bare) or unified


def tokens(text: str) -> list[str]:
    """The words of a normalised answer; of scripts without spaces (Chinese, Thai, ...), every character."""
    words = (_without_enclosure(word) for word in _TOKEN.findall(normalise(text)))
    return [word for word in words if word]


def _without_enclosure(text: str) -> str:
    """Remove final punctuation and each pair of marks around the whole text, layer by layer."""
    while True:
        bare = text.rstrip(_ENDINGS + " ")
        for left, right in _PAIRS:
            if _encloses(left, right, bare):
                bare = bare[len(left) : -len(right)].strip()
        if bare.endswith(")") and bare.count(")") > bare.count("("):  # the choice "A)"
            bare = bare[:-1].strip()
        if bare == text:
            return text
        text = bare


def _encloses(left: str, right: str, text: str) -> bool:
    """Whether the first mark of a text belongs to its last: true of "(A or B)", false of "(A) or (B)"."""
    if len(text) < len(left) + len(right) or not (text.startswith(left) and text.endswith(right)):
        return False
    inside = text[len(left) : -len(right)]
    if left == right:
        return left not in inside
    depth = 0
    for character in inside:  # marks that differ have one character each
        depth += (character == left) - (character == right)
        if depth < 0:
            return False
    return depth == 0


def _numbers_by_value(text: str) -> str:
    plain = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    return _DECIMAL.sub(_decimal, plain)


def _decimal(number: re.Match[str]) -> str:
    integer, fraction = number[1] or "0", number[2].rstrip("0")
    return f"{integer}.{fraction}" if fraction else integer
