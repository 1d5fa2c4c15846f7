"""JSON as models write it: a tree with the place of every value, of any text.

Read are quotes of any kind, inside strings too; raw line ends in strings; keys without quotes; commas and
brackets that are missing, doubled or of the wrong kind; tuples; JSON inside a JSON string. What stands around
objects and lists is prose. No library reads these, or says where a number stands.

One pass with a stack: the work is linear in the text, however deep it nests.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from spr.types import Span

Kind: TypeAlias = Literal["object", "array", "string", "word"]
_BLANK = re.compile(r"(?:\s|\\[nrt])*+")  # a line end may be escaped: JSON in a JSON string
_QUOTES = {'\\"': ('\\"',), '"': ('"',), "'": ("'",), "“": ("”", "“"), "”": ("”", "“"), "‘": ("’", "‘")}
_ANY = {quote: re.compile("|".join(map(re.escape, signs))) for quote, signs in _QUOTES.items()}
_OPENING = re.compile(r"\\\"|[\"'“”‘]")
# a quote ends its string where this follows: a sign of JSON, the next key or object (a comma is missing), or
# the end
_FOLLOWS = (
    r"(?=(?:\s|\\[nrt])*+"
    r"(?:[,;:\]})]|\\?[\"'“‘][A-Za-z_][\w\\]{0,30}\\?[\"'”’]\s?:|\{\s*+\\?[\"'“]|```|<|\Z))"
)
_CLOSING = {
    quote: re.compile(
        (r"(?<!\\)(?:\\\\)*+" if len(quote) == 1 else "") + f"(?:{_ANY[quote].pattern})" + _FOLLOWS
    )
    for quote in _QUOTES
}
_WORD = re.compile(r"(?:[^\s,;:{}\[\]()\"“”\\]|\\(?![nrt\"]))++|\\")
# what begins an object or a list, and not a remark in brackets
_START = re.compile(
    r"\{(?=(?:\s|\\[nrt])*+(?:\\?[\"'“‘{}]|[A-Za-z_][\w\\]*+\s*+:))"
    r"|\[(?=(?:\s|\\[nrt])*+(?:[\[{(\"'“‘\]\-0-9]|\\\"))"
)
_LINE_KEY = re.compile(
    r"(^[ \t]*([-*][ \t]+)?|,[ \t]*)(([\"']?)([A-Za-z_][\w\\]{0,30})\4[ \t]*:[ \t]*(?=[^\s]))", re.MULTILINE
)
# a value up to the end of its line, or to the next key
_REST = re.compile(
    r"([\"'])([^\n]{0,300}?)\1(?=[ \t]*(?:[,}\]]|$))"
    r"|([^\n]*?)(?=[ \t,]*(?:$|,[ \t]*[\"']?[A-Za-z_]\w{0,30}[\"']?[ \t]*:))",
    re.MULTILINE,
)
_VALUE = re.compile(r"(?:[^,;{}\[\]()\n\"“”\\]|\\(?![nrt\"]))*+")  # without quotes
_BARE_QUOTE = re.compile(r'(?<!\\)"')
_ESCAPED = re.compile(r"\\+'")  # JSON knows no escape of it
_NUMBER = re.compile(r"-?[0-9][0-9.]*")
_N = r"-?[0-9]{1,8}(?:\.[0-9]{1,8})?"
# a member as every writer of JSON writes it, with what follows
_PLAIN_MEMBER = re.compile(
    r"\s*\"(\w+)\"\s*:\s*(?:(\"[^\"\\\n]*\")"
    rf"|(\[\s*({_N})\s*,\s*({_N})\s*,\s*({_N})\s*,\s*({_N})\s*\])"
    r"|(-?[0-9][0-9.]*|true|false|null))\s*([,}])"
)
_LITERALS = frozenset(("true", "false", "null", "none", "nan"))
_NEAR = 16  # characters between a key and its colon
CONTAINERS = ("object", "array")
_GOES_ON = re.compile(r"\s*+(?:[\])]|,?\s*+\{)")  # behind a square bracket in the place of a brace
_NEXT_KEY = re.compile(r"(?:\s|\\[nrt])*+,?(?:\s|\\[nrt])*+\\?[\"'“‘]?[A-Za-z_][\w\\]{0,30}[\"'”’]?\s?:")


@dataclass(slots=True)
class Node:
    """A value. `text`: of a string its value, of a word itself. `items`: of a list its values; of an object
    what stands in it without a key. `numbers`: a plain list of numbers may have these in the place of items.
    """

    kind: Kind
    start: int
    end: int = 0
    text: str = ""
    items: list[Node] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    numbers: tuple[Span, ...] = ()
    closed: bool = True  # by its own bracket
    loose: bool = False  # a comma is missing in it
    cut: bool = False  # the text ends in it
    holds_objects: bool = False  # is one, or has one in it

    @property
    def nests(self) -> bool:
        """Of an object: whether another one stands in one of its values."""
        return any(member.value.holds_objects for member in self.members)

    def walk(self) -> Iterator[Node]:
        """This value and all inside it, in order."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            inner = [*(m.value for m in node.members), *node.items]
            stack += sorted(inner, key=lambda n: n.start, reverse=True)


@dataclass(slots=True)
class Member:
    """A key, where it begins, and its value."""

    key: str
    start: int
    value: Node

    @property
    def span(self) -> Span:
        """From the key to the end of the value."""
        return self.start, self.value.end


@dataclass(slots=True)
class _Frame:
    """An object or a list that is open."""

    node: Node
    key: Node | None = None  # of an object: what may become a key
    colon: bool = False  # its value comes next
    comma: bool = False  # must come next

    def last_end(self) -> int:
        """Where what was read of it ends."""
        node = self.node
        ends = [m.value.end for m in node.members[-1:]] + [n.end for n in node.items[-1:]]
        ends += [self.key.end] if self.key is not None and self.colon else []
        return max(ends, default=node.start + 1)

    def add(self, value: Node) -> None:
        """A value under the key that waits for it, or without one."""
        if self.node.kind == "object" and self.colon and self.key is not None:
            self.node.members.append(Member(self.key.text, self.key.start, value))
        else:
            self.node.items.append(value)
            self.node.loose = self.node.loose or self.comma
        self.key, self.colon, self.comma = None, False, True


def read_json(text: str) -> tuple[list[Node], int]:
    """The outermost objects and lists of a text, in order, and how many characters were looked at for them.
    Total and linear.
    """
    reader, found, at = _Reader(text), [], 0
    while (begin := _START.search(text, at)) is not None:
        node, at = reader.value(begin.start())
        found.append(node)
    return found, len(text) + reader.steps


def read_lines(text: str) -> tuple[list[Node], int]:
    """Objects written as YAML, a `key: value` a line, or without their braces; and how many characters were
    looked at for them. A dash, an empty line or a key given twice begins the next one.
    """
    reader, found, keys, end = _Reader(text), list[Node](), set[str](), 0
    for line in _LINE_KEY.finditer(text):
        if line.start() < end:
            continue
        key, at, gap = line.group(5), line.end(), text[end : line.start()]
        if text[at] in "[{(":
            value, end = reader.value(at)
        else:
            rest = _REST.match(text, at)
            assert rest is not None
            if "[" in rest.group():  # words with a box are none
                continue
            end = rest.end()
            kind: Kind = "string" if rest.group(1) else "word"
            value = Node(kind, at, end, _unquoted(rest.group(2) if rest.group(1) else rest.group(3)))
        if not found or line.group(2) or key in keys or gap.strip(" \t\r\n,;") or gap.count("\n") > 1:
            found.append(Node("object", line.start(3), holds_objects=True))
            keys = set()
        found[-1].members.append(Member(key, line.start(3), value))
        found[-1].end = value.end
        keys.add(key)
    return found, 3 * len(text) + reader.steps


class _Reader:
    """One text, and where in it a quote may end a string."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._closers: dict[str, list[int]] = {}
        self._stack: list[_Frame] = []
        self._open = {"object": 0, "array": 0}
        self.steps = 0

    def value(self, at: int) -> tuple[Node, int]:
        """The object or list that begins at `at`, and where to go on."""
        text = self._text
        root = self._push("object" if text[at] == "{" else "array", at)
        at += 1
        while self._stack:
            at = self._plain_members(at)
            begin, at = at, _skip(text, at)
            if at >= len(text):
                while self._stack:
                    self._pop(len(text), closed=False).cut = True
            elif self._stack:
                at = self._token(at)
            self.steps += 2 * (abs(at - begin) + 1)
        return root, at

    def _plain_members(self, at: int) -> int:
        """The members of an object as JSON has them, in one step each. Only for speed: what else stands there
        is read sign by sign, to the same end.
        """
        frame = self._stack[-1]
        node = frame.node
        if node.kind != "object" or frame.key is not None or frame.comma:
            return at
        while (found := _PLAIN_MEMBER.match(self._text, at)) is not None:
            key, string, box, *_, word, sign = found.groups()
            if string:
                value = Node("string", *found.span(2), string[1:-1])
            elif box:
                value = Node("array", *found.span(3))
                value.numbers = found.span(4), found.span(5), found.span(6), found.span(7)
            else:
                value = Node("word", *found.span(8), word)
            node.members.append(Member(key, found.start(1) - 1, value))
            self.steps += found.end() - at
            at = found.end()
            if sign == "}":
                self._pop(at, closed=True)
                break
        return at

    def _push(self, kind: Kind, at: int) -> Node:
        node = Node(kind, at, holds_objects=kind == "object")
        if self._stack:
            self._stack[-1].add(node)
        self._stack.append(_Frame(node))
        self._open[kind] += 1
        return node

    def _pop(self, end: int, closed: bool) -> Node:
        frame = self._stack.pop()
        node = frame.node
        self._open[node.kind] -= 1
        node.end, node.closed = end, closed
        if frame.colon:  # a key without a value
            frame.add(Node("word", end, end))
        if self._stack and node.holds_objects:
            self._stack[-1].node.holds_objects = True
        return node

    def _leave(self, at: int) -> int:
        """What is open ends with its last value: its bracket is missing. What stands at `at` comes again."""
        self._pop(self._stack[-1].last_end(), closed=False)
        return at

    # --- tokens: each takes what stands at `at`, and says where to go on -----------------------------

    def _token(self, at: int) -> int:
        sign, frame = self._text[at], self._stack[-1]
        if sign in "{[(":
            if sign == "{" and frame.node.members and not frame.colon:
                return self._leave(at)
            self._push("object" if sign == "{" else "array", at)
        elif sign in "}])":
            return self._close(sign, at)
        elif sign in ",;":
            if frame.colon:  # a key without a value
                frame.add(Node("word", at, at))
            frame.key, frame.colon, frame.comma = None, False, False
        elif sign == ":":
            self._colon(at)
        elif _OPENING.match(self._text, at):
            return self._string(at)
        else:
            return self._word(at)
        return at + 1

    def _close(self, sign: str, at: int) -> int:
        kind = self._stack[-1].node.kind
        if kind == ("object" if sign == "}" else "array"):
            self._pop(at + 1, closed=True)
        elif _NEXT_KEY.match(self._text, at + 1):  # the object goes on
            if kind == "array":
                self._pop(at + 1, closed=False)
            else:
                self._stack[-1].node.loose = True
        elif kind == "array":
            return self._leave(at) if self._open["object"] else at + 1
        elif self._open["array"] and not _GOES_ON.match(self._text, at + 1):
            return self._leave(at)
        else:  # in the place of a brace
            self._pop(at + 1, closed=False)
        return at + 1

    def _colon(self, at: int) -> None:
        frame = self._stack[-1]
        if frame.node.kind == "object":
            frame.colon = frame.key is not None
            return
        last = frame.node.items[-1] if frame.node.items else None
        if len(self._stack) < 2 or self._stack[-2].node.kind != "object":
            return
        if (
            last is not None
            and last.kind in ("string", "word")
            and at - last.end < _NEAR
            and _skip(self._text, last.end) == at
        ):
            # a key in a list: the bracket of the list is missing
            frame.node.items.pop()
            self._leave(at)
            self._stack[-1].key, self._stack[-1].colon = last, True

    def _string(self, at: int) -> int:
        text, frame = self._text, self._stack[-1]
        opening = _OPENING.match(text, at)
        assert opening is not None
        quote, begin = opening.group(), opening.end()
        closers = self._ends(quote)
        k = bisect_left(closers, begin)
        if k < len(closers):
            end = closers[k]
        else:
            found = _ANY[quote].search(text, begin)
            end = found.start() if found else len(text)
        after = min(end + len(quote), len(text))
        if frame.colon and text[(colon := _skip(text, after)) : colon + 1] == ":":
            key = max(text.rfind(sign, begin, end) for sign in _QUOTES[quote])
            if key >= 0:  # what ends here is the next key: this string was never closed
                end, after = begin + len(text[begin:key].rstrip(" \t\r\n,{}[]")), key
        node = Node("string", at, min(end + len(quote), after), _unquoted(text[begin:end]))
        self._scalar(node)
        return after

    def _scalar(self, node: Node) -> None:
        frame = self._stack[-1]
        if frame.node.kind == "object" and not frame.colon:
            frame.key = node
            frame.node.loose = frame.node.loose or frame.comma
        else:
            frame.add(node)

    def _word(self, at: int) -> int:
        text, frame = self._text, self._stack[-1]
        if frame.colon:
            found = _VALUE.match(text, at)
            assert found is not None
            word = found.group().rstrip()
        else:
            found = _WORD.match(text, at)
            word = found.group() if found else ""
        after = at + max(len(word), 1)
        plain = _NUMBER.fullmatch(word) is not None or word.lower() in _LITERALS
        if frame.node.kind == "object" and not frame.colon:
            follows = _skip(text, after)
            if follows < len(text) and text[follows] != ":":
                return after if plain else self._leave(at)  # a stray number, or prose
        elif not plain and not frame.colon and frame.node.items and frame.node.items[-1].kind in CONTAINERS:
            return self._leave(at)
        self._scalar(Node("word", at, after, word))
        return after

    def _ends(self, quote: str) -> list[int]:
        """Where a quote of this kind ends a string, anywhere in the text."""
        if quote not in self._closers:
            self.steps += 2 * len(self._text)
            self._closers[quote] = [m.end() - len(quote) for m in _CLOSING[quote].finditer(self._text)]
        return self._closers[quote]


def _skip(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at


def _unquoted(body: str) -> str:
    """The value of what stands between quotes; what is no valid escape stays as it is."""
    if "\\" not in body:
        return body
    try:
        value = json.loads('"' + _BARE_QUOTE.sub('\\"', _ESCAPED.sub("'", body)) + '"', strict=False)
    except ValueError:
        return body
    return str(value)
