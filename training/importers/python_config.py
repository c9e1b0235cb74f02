"""mmdetection3d's configurations: Python files of plain assignments, read without being run."""

import ast
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pd_edge.errors import ConfigError
from pd_edge.files import read_text

Names = dict[str, Any]
BASE, DELETE = "_base_", "_delete_"
MOST_ITEMS = 10_000
"""Of a text or list that is computed: a checkpoint's configuration may be anybody's, and meant to fill the memory."""

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Unreadable:
    """An expression that is no plain value; harmless unless somebody needs it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return f"the expression {self._text:.60}"


def read_python_config(path: Path) -> Names:
    """Reads a configuration file with the files that it is based on.

    Raises:
        ConfigError: The file is no Python, or a file it is based on is not there.
        DataError: It cannot be read.
    """
    return parse_python_config(read_text(path, "a configuration of mmdetection3d"), str(path), path.parent)


def parse_python_config(text: str, source: str, folder: Path | None = None) -> Names:
    """Reads a configuration.

    Literals, ``dict(...)``, earlier names and sums, differences, products and quotients are understood; anything else
    becomes :class:`Unreadable`. Nothing is run.

    Args:
        text: The Python text.
        source: Where it is from, for errors.
        folder: Where its ``_base_`` files are; None where there are none, as in the text that a checkpoint holds.

    Raises:
        ConfigError: It is no Python, or a file it is based on is not there.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{source}: not valid Python ({error}); give a configuration of mmdetection3d") from error
    names: Names = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            names[statement.targets[0].id] = _value(statement.value, names)
    bases = names.pop(BASE, []) if folder is not None else []
    merged: Names = {}
    for base in [bases] if isinstance(bases, str) else bases:
        merged = _merge(merged, _read_base(base, folder or Path(), source))
    return _merge(merged, names)


def _read_base(base: Any, folder: Path, source: str) -> Names:
    path = folder / str(base)
    if not path.is_file():
        raise ConfigError(f"{source}: is based on {base}, which is not at {path}; keep the project's folders together")
    return read_python_config(path)


def _value(node: ast.expr, names: Names) -> Any:
    """The value of an expression."""
    try:
        return _evaluate(node, names)
    except (TypeError, ZeroDivisionError, KeyError):
        return Unreadable(ast.unparse(node))


def _evaluate(node: ast.expr, names: Names) -> Any:
    """As :func:`_value`; TypeError or KeyError where it is no plain value."""
    found: Any
    match node:
        case ast.Constant():
            found = node.value
        case ast.Name():
            found = names[node.id]
        case ast.List():
            found = [_value(each, names) for each in node.elts]
        case ast.Tuple():
            found = tuple(_value(each, names) for each in node.elts)
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            found = {_evaluate(key, names): _value(value, names) for key, value in pairs if key is not None}
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            found = {each.arg: _value(each.value, names) for each in node.keywords if each.arg is not None}
        case ast.UnaryOp(op=ast.USub()):
            found = -_evaluate(node.operand, names)
        case ast.BinOp() if type(node.op) in _OPERATORS:
            found = _computed(node.op, _evaluate(node.left, names), _evaluate(node.right, names))
        case _:
            raise TypeError(ast.unparse(node))
    return found


def _computed(operation: ast.operator, left: Any, right: Any) -> Any:
    """A sum, difference, product or quotient; TypeError for a text or list that would be too long."""
    lengths = [len(each) for each in (left, right) if isinstance(each, str | list | tuple)]
    times = [each for each in (left, right) if isinstance(each, int)]
    if sum(lengths) * max([1, *times]) > MOST_ITEMS:
        raise TypeError(f"more than {MOST_ITEMS} items")
    return _OPERATORS[type(operation)](left, right)


def _merge(base: Names, child: Names) -> Names:
    """The base with the child's values: dictionaries value by value, but for those that say ``_delete_``.

    Source: mmengine, inheritance of configuration files.
    """
    merged = dict(base)
    for name, value in child.items():
        below = merged.get(name)
        if isinstance(value, dict) and isinstance(below, dict) and not value.get(DELETE, False):
            merged[name] = _merge(below, value)
        else:
            merged[name] = (
                {key: each for key, each in value.items() if key != DELETE} if isinstance(value, dict) else value
            )
    return merged
