"""The batches of CIFAR's Python archives: pickles, read by a machine that knows the few instructions they have.

Python's own unpickler builds whatever a file names, and an array's or a dtype's state is then restored by C code that
trusts it. Here only a dictionary, lists, tuples, numbers, strings and an array of bytes can come out, and nothing is
larger than the file.
"""

import operator
import pickletools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from resjax.errors import InputError, printable

_MARK = object()
_LATIN1 = ("latin1", b"latin1")
# Pickled by NumPy until 1.26, and since 2.0.
_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
# Python 3 writes bytes into a protocol-2 pickle as `_codecs.encode(text, "latin1")`.
_NAMES = (*_RECONSTRUCT, "numpy.ndarray", "numpy.dtype", "_codecs.encode")
_VALUES = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "UNICODE",
           "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")  # fmt: skip
_STRINGS = ("STRING", "BINSTRING", "SHORT_BINSTRING")  # of Python 2, which had bytes in them
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Refused(Exception):
    """The pickle wants something that an official batch does not have."""


class _Name(str):
    """A class or function that the pickle names; it is never looked up."""


class _Dtype:
    """What stands for `numpy.dtype("u1")`."""


class _Array:
    """What stands for an array until its state has come."""

    values: np.ndarray | None = None


def load_batch(data: bytes, origin: str) -> dict[str, Any]:
    """Returns the dictionary pickled in `data`, with its keys as `str`.

    Args:
      data: a batch file as Python 2 wrote it (official), or Python 3 after it.
      origin: the file's name, for error messages.

    Raises:
      InputError: if the pickle wants anything but arrays of bytes and plain values (nothing of it is ever run), is
        damaged, or holds no dictionary.
    """
    try:
        batch = _run(data)
    except _Refused as error:
        raise InputError(
            f"{origin}: refused: this pickle {printable(error)}, which a CIFAR batch does not need; get the official"
            " archive"
        ) from None
    except (ValueError, IndexError, TypeError, KeyError) as error:  # of bytes that are no program
        raise InputError(f"{origin}: damaged pickle ({printable(error)}); get the official archive again") from None
    if not isinstance(batch, dict):
        raise InputError(f"{origin}: a CIFAR batch is a dictionary, found {type(batch).__name__}")
    return {
        key.decode("latin1") if isinstance(key, bytes) else key: value.values if isinstance(value, _Array) else value
        for key, value in batch.items()
    }


def _run(data: bytes) -> Any:
    """What the program `data` leaves on its stack."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    spare = len(data)  # bytes that strings may be copied to

    def above_mark() -> list[Any]:
        start = len(stack) - 1 - operator.indexOf(reversed(stack), _MARK)
        items = stack[start + 1 :]
        del stack[start:]
        return items

    program: Iterable[tuple[pickletools.OpcodeInfo, Any, int | None]] = pickletools.genops(data)
    for instruction, argument, _ in program:
        name = instruction.name
        if name in ("PROTO", "FRAME"):
            continue
        elif name in _VALUES:
            stack.append(argument)
        elif name in _STRINGS:
            stack.append(argument.encode("latin1"))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(_top(stack, _TUPLES[name]))]
        elif name in ("TUPLE", "LIST", "DICT"):
            items = above_mark()
            stack.append(_filled({}, items) if name == "DICT" else items if name == "LIST" else tuple(items))
        elif name in ("APPEND", "APPENDS"):
            items = above_mark() if name == "APPENDS" else [stack.pop()]
            if type(stack[-1]) is not list:
                raise ValueError(f"{name} to a {type(stack[-1]).__name__}")
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = above_mark() if name == "SETITEMS" else [*_top(stack, 2)]
            if name == "SETITEM":
                del stack[-2:]
            _filled(stack[-1], items)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            named = ".".join(argument.split(" ", 1) if name == "GLOBAL" else map(str, (stack.pop(-2), stack.pop())))
            if named not in _NAMES:
                raise _Refused(f"tried to load {named}")
            stack.append(_Name(named))
        elif name == "REDUCE":
            arguments = stack.pop()
            made = _called(stack[-1], arguments)
            if isinstance(made, bytes) and (spare := spare - len(made)) < 0:
                raise ValueError("it copies its strings")
            stack[-1] = made
        elif name == "BUILD":
            state = stack.pop()
            _restore(stack[-1], state)
        elif name == "STOP":
            return stack.pop()
        else:
            raise _Refused(f"has the instruction {name}")


def _top(stack: list[Any], number: int) -> list[Any]:
    if len(stack) < number or any(item is _MARK for item in stack[-number:]):
        raise IndexError("its stack is empty")
    return stack[-number:]


def _filled(target: Any, items: list[Any]) -> dict[str | bytes, Any]:
    keys = items[::2]
    if type(target) is not dict or len(items) % 2 or not all(type(key) in (str, bytes) for key in keys):
        raise ValueError("a dictionary with keys that are no strings")
    target.update(zip(keys, items[1::2], strict=True))
    return target


def _called(name: Any, arguments: Any) -> Any:
    """What stands for `name(*arguments)`."""
    if not isinstance(name, _Name) or type(arguments) is not tuple:
        raise ValueError("a call of what is no function")
    if name == "_codecs.encode":
        text, encoding = arguments
        if encoding not in _LATIN1 or type(text) is not str:
            raise _Refused(f"tried to load _codecs.encode with {_shown(encoding)}")
        return text.encode("latin1")
    if name in _RECONSTRUCT and arguments[:1] == ("numpy.ndarray",):
        return _Array()
    if name == "numpy.dtype":
        if arguments[0] not in ("u1", b"u1"):
            raise _Refused(f"holds an array of {_shown(arguments[0])}, not of 'u1' (uint8)")
        return _Dtype()
    raise _Refused(f"tried to call {name}")


def _shown(value: Any) -> str:
    # Never of a list: one that holds another many times over, and so on, is a text without end.
    return repr(value) if type(value) in (str, bytes) else f"a {type(value).__name__}"


def _restore(target: Any, state: Any) -> None:
    """Gives an array its values; of a dtype the state says only what one of bytes always has."""
    if isinstance(target, _Dtype):
        if type(state) is not tuple or state[2:5] != (None, None, None):
            raise _Refused("holds an array of fields")
        return
    if not isinstance(target, _Array):
        raise _Refused(f"tried to restore a {type(target).__name__}")
    version, shape, dtype, is_fortran, values = state
    if type(shape) is not tuple or not all(type(side) is int and side >= 0 for side in shape) or len(shape) > 8:
        raise ValueError("an array of no shape")
    if version != 1 or not isinstance(dtype, _Dtype) or type(values) is not bytes:
        raise _Refused("holds an array that is not of bytes")
    target.values = np.frombuffer(values, np.uint8).reshape(shape, order="F" if is_fortran else "C")
