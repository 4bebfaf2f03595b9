"""Make an ES module small: no comments, no needless spaces, short names for its variables.

    smaller = minify(Path("ganedge.js").read_text())

Only names that are variables wherever they stand are shortened, and `#private` members. A property, a key, what is
exported or taken from a shorthand such as `{ width }` keeps its name, so no scopes have to be known: the same name
gets the same short name everywhere. The module has to be of one style: a semicolon after each statement, strings in
double quotes, and no regular expression but those that begin with `^`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import count, product
from string import ascii_letters
from typing import NamedTuple

TOKEN = re.compile(
    r"(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<space>\s+)"
    r'|(?P<text>"(?:[^"\\\n]|\\.)*"|/\^(?:[^/\\\n]|\\.)*/)'
    r"|(?P<name>#?[A-Za-z_$][\w$]*)|(?P<number>\d[\w.]*)|(?P<sign>\.\.\.|\?\.|=>|[=!]==?|<=|>=|\+\+|--|\$\{|.)",
    re.DOTALL,
)
TEMPLATE = re.compile(r"`|\$\{|(?:\\.|(?!\$\{)[^`\\])+", re.DOTALL)
KEYWORDS = """
as async await break case catch class const constructor continue default delete do else export extends false finally
for from function get if import in instanceof let new null of return set static super switch this throw true try typeof
undefined var void while with yield
"""
WORDS = frozenset(KEYWORDS.split())
"""Words of the language."""
NAME = re.compile(r"[A-Za-z_$]")
OPENS, CLOSES = ("{", "${", "(", "["), ("}", ")", "]")


class Token(NamedTuple):
    """A piece of the module: comment, space, text (of a string, a template or an expression), name, number or sign."""

    sort: str
    text: str


def minify(module: str) -> str:
    """The module as it is downloaded; minified again it stays the same.

    Args:
        module: Source of an ES module in the style that this file describes.

    Returns:
        The same module, smaller. Exported names, properties and texts are unchanged.
    """
    tokens = [token for token in _tokens(module) if token.sort != "comment"]
    short = _short_names([token for token in tokens if token.sort != "space"])
    return _joined(
        [token._replace(text=short.get(token.text, token.text)) if token.sort == "name" else token for token in tokens]
    )


def _tokens(module: str) -> Iterator[Token]:
    """The tokens in order; together they are the module."""
    position, inside = 0, [""]  # Open braces and templates, innermost last.
    while position < len(module):
        match = (TEMPLATE if inside[-1] == "`" else TOKEN).match(module, position)
        assert match is not None, module[position : position + 40]
        position, text = match.end(), match[0]
        if text == "`":
            inside.pop() if inside[-1] == "`" else inside.append("`")
            yield Token("text", text)
        elif text == "${" or (text == "{" and inside[-1] != "`"):
            inside.append(text)
            yield Token("sign", text)
        elif inside[-1] == "`":
            yield Token("text", text)
        else:
            if text == "}":
                inside.pop()
            assert match.lastgroup is not None
            yield Token(match.lastgroup, text)


def _short_names(tokens: list[Token]) -> dict[str, str]:
    """A short name for each variable and private member that may be renamed, the shortest for frequent ones."""
    declared, fixed = _roles(tokens)
    frequency = Counter(token.text for token in tokens if token.sort == "name")
    short: dict[str, str] = {}
    for sign in ("", "#"):
        names = (sign + name for name in _letters() if name not in WORDS and sign + name not in frequency)
        for name, _ in frequency.most_common():
            if name.startswith("#") if sign else name in declared - fixed:
                short[name] = min(name, next(names), key=len)
    return short


def _letters() -> Iterator[str]:
    """All names of one letter, then of two, and so on."""
    return ("".join(letters) for length in count(1) for letters in product(ascii_letters, repeat=length))


def _roles(tokens: list[Token]) -> tuple[set[str], set[str]]:
    """Names that the module declares as variables, and names that are a property, a key or exported somewhere."""
    declared: set[str] = set()
    fixed = set(WORDS)
    texts = ["", "", "", *(token.text if token.sort != "text" else "" for token in tokens), ""]
    ends = _ends(texts)
    patterns = {index for start, end in ends.items() if _is_pattern(texts, start, end) for index in range(start, end)}
    open_ = [0]
    for index, name in enumerate(texts[:-1]):
        before, after = texts[index - 1], texts[index + 1]
        if name in OPENS:
            open_.append(index)
        elif name in CLOSES:
            open_.pop()
        if not NAME.match(name):
            continue
        shorthand = _is_literal(texts, open_[-1]) and before in ("{", ",") and after in (",", "}", "=")
        method = texts[open_[-1]] == "{" and after == "(" and texts[ends[index + 1] + 1] == "{" and before != "function"
        exported = "export" in texts[index - 3 : index]
        if before in (".", "?.") or after == ":" or shorthand or method or exported:
            fixed.add(name)
        bound = index in patterns and before in ("(", "[", ",", "...") and after in (")", "]", ",", "=")
        keyword = texts[index - 2] if before == "*" else before
        if bound or keyword in ("const", "let", "function", "class") or after in ("=", "=>"):
            declared.add(name)
    return declared, fixed


def _ends(texts: list[str]) -> dict[int, int]:
    """For the position of each opening bracket, that of its closing one."""
    ends: dict[int, int] = {}
    starts: list[int] = []
    for index, text in enumerate(texts):
        if text in OPENS:
            starts.append(index)
        elif text in CLOSES:
            ends[starts.pop()] = index
    return ends


def _is_pattern(texts: list[str], start: int, end: int) -> bool:
    """Whether brackets hold parameters or what is destructured."""
    after = texts[end + 1]
    parameters = texts[start] == "(" and (after == "=>" or (after == "{" and texts[start - 1] not in WORDS))
    return parameters or (texts[start] == "[" and after in ("=", "of"))


def _is_literal(texts: list[str], start: int) -> bool:
    """Whether a brace begins an object or a pattern of one, and no block."""
    return texts[start] == "{" and texts[start - 1] in {*"(,=:[?&|", "...", "return", "const", "let"}


def _joined(tokens: list[Token]) -> str:
    """The tokens with the spaces and the ends of lines that they need; outermost statements keep a line each."""
    parts: list[str] = []
    last, gap, depth = Token("sign", ";"), "", 0
    for token in tokens:
        if token.sort == "space":
            gap = "\n" if "\n" in token.text else " "
            continue
        words = all(each.sort in ("name", "number") for each in (last, token))
        double = last.text[-1:] == token.text[:1] in ("+", "-")
        ends_line = gap == "\n" and (
            depth == 0 or not ((last.sort == "sign" and last.text not in ("}", ")", "]")) or token.sort == "sign")
        )
        parts += ["\n" if ends_line else " " if words or double else "", token.text]
        depth += (token.sort == "sign") * ((token.text in OPENS) - (token.text in CLOSES))
        last, gap = token, ""
    return "".join(parts).strip() + "\n"
