"""When two answers are the same: what an answer is once its dress (case, quotes, a final stop) is taken off.

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

    Unicode's compatibility forms are unified (NFKC) and case is ignored; so are quotes, brackets or Markdown around the
    whole answer, punctuation at its end, apostrophes inside words, full stops of initials, an article at its beginning,
    and how often white space stands. Numbers are compared by value: 1,000 is 1000, and 1.50 is 1.5. An answer of
    nothing else ("A", "?") stays as it is.
    """
    whole = " ".join(unicodedata.normalize("NFKC", text).translate(_SPELLINGS).casefold().split())
    bare = _without_dress(_INITIALS.sub(lambda found: found[0].replace(".", ""), whole))
    bare = _ARTICLE.sub("", _COMMA.sub(r"\1 ", _APOSTROPHE.sub("", bare)).strip())
    return _numbers_by_value(bare) or whole


def tokens(text: str) -> list[str]:
    """The words of a normalised answer; of scripts without spaces (Chinese, Thai, ...), every character."""
    words = (_without_dress(word) for word in _TOKEN.findall(normalise(text)))
    return [word for word in words if word]


def _without_dress(text: str) -> str:
    """Take off what stands around a text, layer by layer."""
    while True:
        bare = text.rstrip(_ENDINGS + " ")
        for left, right in _PAIRS:
            if len(bare) >= len(left) + len(right) and bare.startswith(left) and bare.endswith(right):
                bare = bare[len(left) : -len(right)].strip()
        if bare.endswith(")") and bare.count(")") > bare.count("("):  # the choice "A)"
            bare = bare[:-1].strip()
        if bare == text:
            return text
        text = bare


def _numbers_by_value(text: str) -> str:
    plain = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    return _DECIMAL.sub(_decimal, plain)


def _decimal(found: re.Match[str]) -> str:
    whole, part = found[1] or "0", found[2].rstrip("0")
    return f"{whole}.{part}" if part else whole
