"""Check a pickle before it is read: a small file must not take much memory, nor crash the interpreter."""

import os
import pickle
import pickletools
import zipfile
from typing import IO, Any

# Values of weights and training states lie about ten deep. Python crashes when it hashes a tuple of 100,000 levels.
_DEEPEST = 100
# Bytes that calls may take as arguments, as a multiple of the file's size: arguments may be used several times.
_MOST_ARGUMENTS = 100
# Opcodes that put values into the object below them.
_FILLING = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
_CALLING = {"REDUCE", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ"}
# PyTorch before 1.6 wrote five pickles, with the data of the tensors behind them.
_PICKLES_OF_OLD_FILE = 5


class RefusedPickle(pickle.UnpicklingError):
    """Refusal of a pickle's content. The message is a clause without its subject, the file: "it holds ..."."""


class _Value:
    """What is known of a value on the stack: its nesting, and how many bytes of the file describe it."""

    def __init__(self, depth: int = 0, size: int = 1) -> None:
        self.depth = depth
        self.size = size


def check_torch_file(path: str) -> None:
    """Check a file of torch.save; raise RefusedPickle, or nearly any exception if it is damaged."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(path):
            for _ in range(_PICKLES_OF_OLD_FILE):
                check_pickle(file, size)
            return
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > size:
                raise RefusedPickle("it would unpack to more than its own size, which torch.save never writes")
            for entry in entries:
                if entry.filename.endswith("data.pkl"):
                    with archive.open(entry) as pickled:
                        check_pickle(pickled, entry.file_size)


def check_pickle(file: IO[bytes], size: int) -> None:
    """Read over the pickle at the position of `file`, without making its values.

    Args:
        file: an open file.
        size: its size in bytes.

    Raises:
        RefusedPickle: a length, an index, the nesting or the arguments of calls are out of proportion to the file.
        Exception: nearly any, if the pickle is damaged.
    """
    stack: list[_Value | None] = []  # None is a mark
    memo: dict[int, _Value] = {}
    arguments = 0
    bounded: Any = _BoundedFile(file, size)
    argument: Any
    for opcode, argument, position in pickletools.genops(bounded):
        name = opcode.name
        if name == "MEMOIZE" or name.endswith("PUT"):
            index = len(memo) if argument is None else argument
            if index > (position or 0):
                raise RefusedPickle(f"it numbers a value {index} after {position} bytes")
            memo[index] = _top(stack)
        elif name.endswith("GET"):
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(_top(stack))
        elif name == "MARK":
            stack.append(None)
        elif name == "GLOBAL" and argument.endswith(" bytearray"):
            raise RefusedPickle("it makes a bytearray, which no weights need and whose size it may choose")
        else:
            taken = _pop(stack, opcode)
            if name in _CALLING:
                arguments += sum(value.size for value in taken)
                if arguments > _MOST_ARGUMENTS * size:
                    raise RefusedPickle("it uses large values again and again, which takes more and more memory")
            _push(stack, opcode, argument, taken)


class _BoundedFile:
    """The part of a file from its position on, which refuses to read more bytes than there are."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self.readline = file.readline
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        if count > self._size:
            raise RefusedPickle(f"it claims a value of {count} bytes in {self._size}")
        return self._file.read(count)


def _top(stack: list[_Value | None]) -> _Value:
    if not stack or stack[-1] is None:
        raise RefusedPickle("it names a value where there is none")
    return stack[-1]


def _pop(stack: list[_Value | None], opcode: pickletools.OpcodeInfo) -> list[_Value]:
    """Take from the stack what the opcode takes, but for the object that it fills."""
    before = list(opcode.stack_before)
    taken: list[_Value] = []
    if pickletools.markobject in before:
        while (value := stack.pop()) is not None:
            taken.append(value)
        before = before[: before.index(pickletools.markobject)]
    for _ in before[opcode.name in _FILLING :]:
        value = stack.pop()
        if value is not None:  # POP takes a mark, too
            taken.append(value)
    return taken


def _push(stack: list[_Value | None], opcode: pickletools.OpcodeInfo, argument: Any, taken: list[_Value]) -> None:
    """Put on the stack what the opcode makes of the values that it has taken, or fill the object on top with them."""
    depth = 1 + max((value.depth for value in taken), default=-1)
    size = sum(value.size for value in taken)
    if depth > _DEEPEST:
        raise RefusedPickle(f"its values are nested more than {_DEEPEST} deep")
    if opcode.name in _FILLING:
        filled = _top(stack)
        filled.depth = max(filled.depth, depth)
        filled.size += size
    elif opcode.stack_after:
        length = len(argument) if isinstance(argument, (str, bytes, bytearray)) else 0
        stack.append(_Value(depth, 1 + length + size))
