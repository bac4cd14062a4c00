"""Filters such as ``frame_id = '128D_09016_110500' AND NOT activity_types IN ('dyke', 'sill')``.

A filter is parsed into a small tree and evaluated on columns in memory, or written anew as SQL for
an approximate index (``sql``). Its own text never reaches a query engine: there only come columns
of a fixed list, numbers, and texts whose quotes are doubled.

    expression  := conjunction ("OR" conjunction)*
    conjunction := term ("AND" term)*
    term        := "NOT" term | "(" expression ")" | comparison
    comparison  := column ("=" | "!=" | "<" | "<=" | ">" | ">=") literal
                 | column ["NOT"] "IN" "(" literal ("," literal)* ")"
    literal     := 'text' (a quote inside is written '') | number | TRUE | FALSE

Key words are read in any case, column names and texts exactly. On a list column ``=`` means "has
this member" and ``IN`` "has one of these members". Dates are ISO texts and compare as such, so
``primary_date > '2018'`` holds from 2018-01-01 on. A missing value equals nothing and is neither
less nor greater than anything: only ``!=`` and ``NOT`` let it pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from heph_vl.errors import HephError

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["text", "date", "integer", "number", "flag", "list"]
Value = str | int | float | bool
Mask = npt.NDArray[np.bool_]

MAX_LENGTH = 2000
MAX_DEPTH = 30  # of parentheses and NOTs: far more than anyone types, far less than Python's stack
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r"|(?P<word>[A-Za-z_]\w*)|(?P<symbol><=|>=|!=|[=<>(),]))"
)
_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")
_OPERATORS = ("=", "!=", "<", "<=", ">", ">=")
_KEYWORDS = ("AND", "OR", "NOT", "IN", "TRUE", "FALSE")
_EXPECTED: dict[Kind, str] = {
    "text": "a text in single quotes",
    "date": "a date such as '2018-05-01', '2018-05' or '2018'",
    "integer": "a number",
    "number": "a number",
    "flag": "TRUE or FALSE",
    "list": "a text in single quotes",
}


@dataclass(frozen=True)
class Comparison:
    """``column operator values``; several values only for ``=``, where any of them will do."""

    column: str
    operator: str
    values: tuple[Value, ...]

    def mask(self, table: pa.Table) -> Mask:
        """Which rows hold it.

        Args:
            table: N rows with the column.

        Returns:
            (N,) bool.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        column = table[self.column].combine_chunks()
        if self.operator == "!=":
            return ~Comparison(self.column, "=", self.values).mask(table)
        if pa.types.is_integer(column.type):
            column = column.cast(pa.float64())  # so that 1.5 and 1e300 compare as numbers
        if pa.types.is_list(column.type):
            members, parents = pc.list_flatten(column), pc.list_parent_indices(column)
            wanted = pc.is_in(members, value_set=pa.array(self.values, members.type))
            mask = np.zeros(len(table), dtype=bool)
            mask[parents.to_numpy()[_to_numpy(wanted)]] = True
            return mask
        if self.operator == "=":
            return _to_numpy(pc.is_in(column, value_set=pa.array(self.values, column.type)))
        compare = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}
        return _to_numpy(compare[self.operator](column, pa.scalar(self.values[0], column.type)))

    def sql(self, columns: Mapping[str, Kind]) -> str:
        """The same in SQL (DataFusion), for columns of the given kinds."""
        if self.operator == "!=":
            return Not(Comparison(self.column, "=", self.values)).sql(columns)
        if columns[self.column] == "list":
            has = [f"array_has({self.column}, {_sql_literal(value)})" for value in self.values]
            return f"({' OR '.join(has)})"
        plain = all(_sql_literal(value)[:4] != "CAST" for value in self.values)
        name = self.column if plain else f"CAST({self.column} AS DOUBLE)"
        literals = [_sql_literal(value) for value in self.values]
        if self.operator == "=":
            return f"({name} IN ({', '.join(literals)}))"
        return f"({name} {self.operator} {literals[0]})"


@dataclass(frozen=True)
class Not:
    """The rows that ``part`` leaves out."""

    part: Filter

    def mask(self, table: pa.Table) -> Mask:
        """Which of the N rows hold it: (N,) bool."""
        return ~self.part.mask(table)

    def sql(self, columns: Mapping[str, Kind]) -> str:
        """The same in SQL: what is missing is not held, so its denial is."""
        return f"(NOT coalesce({self.part.sql(columns)}, FALSE))"


@dataclass(frozen=True)
class Both:
    """``left AND right``, or ``left OR right``."""

    left: Filter
    right: Filter
    either: bool = False

    def mask(self, table: pa.Table) -> Mask:
        """Which of the N rows hold it: (N,) bool."""
        left, right = self.left.mask(table), self.right.mask(table)
        return left | right if self.either else left & right

    def sql(self, columns: Mapping[str, Kind]) -> str:
        """The same in SQL."""
        word = "OR" if self.either else "AND"
        return f"({self.left.sql(columns)} {word} {self.right.sql(columns)})"


Filter = Comparison | Not | Both


def parse_where(text: str, columns: Mapping[str, Kind]) -> Filter:
    """The filter that a text describes (grammar: see the module).

    Args:
        text: At most ``MAX_LENGTH`` characters.
        columns: Kind of each column that may be named.

    Returns:
        A tree whose ``mask(table)`` gives the rows that hold it.

    Raises:
        HephError: If the text does not parse, names an unknown column or compares a column with a
            literal of another kind; it names the position (characters, from 1) and the columns.
    """
    if len(text) > MAX_LENGTH:
        raise HephError(
            "filter",
            f"it has {len(text)} characters",
            f"write at most {MAX_LENGTH}; use IN ('a', 'b', ...) for many values",
        )
    return _Parser(text, columns).parse()


class _Token(NamedTuple):
    kind: str  # text | number | word | symbol | end
    text: str
    position: int  # characters, from 1


def _sql_literal(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if abs(value) < 2**53 and value == int(value):
        return str(int(value))
    return f"CAST('{float(value)!r}' AS DOUBLE)"


def _to_numpy(mask: pa.Array) -> Mask:
    values: Mask = mask.fill_null(False).to_numpy(zero_copy_only=False)
    return values


def _tokenize(text: str, fail: Callable[[int, str], NoReturn]) -> list[_Token]:
    tokens: list[_Token] = []
    start, end = 0, len(text.rstrip())
    while start < end:
        match = _TOKEN.match(text, start)
        if match is None:
            start += len(text[start:]) - len(text[start:].lstrip())
            if text[start] == "'":
                fail(start + 1, "a text without its closing quote")
            fail(start + 1, f"unexpected character {text[start]!r}")
        kind = str(match.lastgroup)
        tokens.append(_Token(kind, match[kind], match.start(kind) + 1))
        start = match.end()
    return [*tokens, _Token("end", "the end", end + 1)]


@dataclass
class _Parser:
    text: str
    columns: Mapping[str, Kind]
    tokens: list[_Token] = field(default_factory=list)
    next: int = 0
    depth: int = 0

    def parse(self) -> Filter:
        self.tokens = _tokenize(self.text, self._fail)
        result = self._any_of()
        if self._peek().kind != "end":
            self._fail_at(self._peek(), "AND, OR or the end")
        return result

    def _any_of(self) -> Filter:
        result = self._all_of()
        while self._accept("OR"):
            result = Both(result, self._all_of(), either=True)
        return result

    def _all_of(self) -> Filter:
        result = self._term()
        while self._accept("AND"):
            result = Both(result, self._term())
        return result

    def _term(self) -> Filter:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._fail(self._peek().position, f"more than {MAX_DEPTH} parentheses or NOTs deep")
        if self._accept("NOT"):
            result: Filter = Not(self._term())
        elif self._accept("("):
            result = self._any_of()
            self._expect(")")
        else:
            result = self._comparison()
        self.depth -= 1
        return result

    def _comparison(self) -> Filter:
        token = self._take()
        if token.kind != "word" or token.text.upper() in _KEYWORDS:
            self._fail_at(token, "a column")
        if token.text not in self.columns:
            self._fail(token.position, f"unknown column {token.text!r}")
        column, kind = token.text, self.columns[token.text]
        negated = self._accept("NOT")
        if negated or self._peek().text.upper() == "IN":
            self._expect("IN")
            within: Filter = Comparison(column, "=", self._values(column, kind))
            return Not(within) if negated else within
        operator = self._take()
        if operator.text not in _OPERATORS:
            self._fail_at(operator, "one of = != < <= > >= IN")
        if kind in ("list", "flag") and operator.text not in ("=", "!="):
            self._fail(operator.position, f"{column} is a {kind}, which has no order; use = or !=")
        return Comparison(column, operator.text, (self._literal(column, kind),))

    def _values(self, column: str, kind: Kind) -> tuple[Value, ...]:
        self._expect("(")
        values = [self._literal(column, kind)]
        while self._accept(","):
            values.append(self._literal(column, kind))
        self._expect(")")
        return tuple(values)

    def _literal(self, column: str, kind: Kind) -> Value:
        token = self._take()
        word = token.text.upper()
        if kind == "flag" and token.kind == "word" and word in ("TRUE", "FALSE"):
            return word == "TRUE"
        if kind in ("integer", "number") and token.kind == "number":
            return float(token.text)
        if kind in ("text", "date", "list") and token.kind == "text":
            value = token.text[1:-1].replace("''", "'")
            if kind != "date" or _DATE.fullmatch(value):
                return value
        self._fail_at(token, f"{_EXPECTED[kind]} for {column}")

    def _peek(self) -> _Token:
        return self.tokens[self.next]

    def _take(self) -> _Token:
        token = self._peek()
        self.next += token.kind != "end"
        return token

    def _accept(self, text: str) -> bool:
        token = self._peek()
        if token.kind in ("word", "symbol") and token.text.upper() == text:
            self.next += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            self._fail_at(self._peek(), text)

    def _fail_at(self, token: _Token, expected: str) -> NoReturn:
        found = token.text if token.kind in ("text", "end") else repr(token.text)
        self._fail(token.position, f"expected {expected}, found {found[:60]}")

    def _fail(self, position: int, what: str) -> NoReturn:
        names = ", ".join(self.columns)
        raise HephError(f"filter, character {position}", what, f"columns: {names}")
