"""Reading the members of a saved model. Sizes, names and nesting are checked before anything is read."""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from stable_baselines3.common.save_util import open_path

from pgzoo.errors import ConfigError, converted
from pgzoo.interface.hyperparameters import shown
from pgzoo.interface.types import Array

DOCUMENT: Final = "pgzoo.json"
DATA: Final = "data"
VARIABLES: Final = "pytorch_variables.pth"
METADATA: Final = "metadata.json"
"""What an exported policy says about itself. It is not read."""
KNOWN: Final = (DOCUMENT, DATA, VARIABLES, METADATA, "_stable_baselines3_version", "system_info.txt")
ARRAY: Final = re.compile(r"pgzoo/\d+\.npy")
PARAMETERS: Final = re.compile(r"\w+(\.\w+)*\.pth")

MOST_MEMBERS = 10_000
LARGEST_JSON = 2**26
DEEPEST_JSON = 100
LARGEST_EXPANSION = 16
"""How many times larger than the file its members may be. Models are written without compression."""
SMALL = 2**20
"""Files whose members have at most this many bytes may be compressed as much as they like."""
MOST_NODES = 200_000
"""The most items of a state dict, with items that occur several times counted each time."""


class Archive:
    """A saved model that is open for reading.

    Args:
        file: the zip file. Its table of contents is checked.
        name: what errors call the file.

    Raises:
        ConfigError: the members are too large, too many, or have wrong names.
    """

    def __init__(self, file: zipfile.ZipFile, name: str) -> None:
        self._file, self.name = file, name
        self._infos = _checked(file, name)
        for member in self._infos:
            if member not in KNOWN and not ARRAY.fullmatch(member) and not PARAMETERS.fullmatch(member):
                raise ConfigError(f"{name} is not a saved model: it has an unexpected member {shown(member)}")

    def __contains__(self, member: str) -> bool:
        return member in self._infos

    def read(self, member: str, largest: int | None = None) -> bytes:
        """Return the content of a member, after its checksum has been compared.

        Raises:
            ConfigError: it is missing, or longer than `largest`.
        """
        if member not in self._infos:
            raise ConfigError(f"{self.name} is not a saved model: its member {member} is missing")
        if largest is not None and self._infos[member].file_size > largest:
            raise ConfigError(f"{self.name} is not a saved model: its member {member} is larger than {largest:,} bytes")
        return self._file.read(member)

    def json(self, member: str) -> Any:
        """Return the content of a JSON member.

        Raises:
            ConfigError: it is missing, too large, nested too deeply, or not JSON.
        """
        text = self.read(member, LARGEST_JSON)
        with converted(f"{self.name} is not a saved model: {member}"):
            return read_json(text.decode("utf-8"))

    def array(self, number: str) -> Array:
        """Return one of pgzoo's arrays.

        Raises:
            ConfigError: it is missing or damaged.
        """
        member = array_member(number)
        data = self.read(member)
        with converted(f"{self.name} is not a saved model: {member}"):
            return _read_array(data)

    def parameters(self) -> dict[str, Any]:
        """Return the state dicts of SB3's members by name, on the CPU.

        Raises:
            ConfigError: one is damaged, or is not a state dict.
        """
        names = [member for member in self._infos if PARAMETERS.fullmatch(member) and member != VARIABLES]
        return {member.removesuffix(".pth"): self._state_dict(member) for member in names}

    def variables(self) -> dict[str, Any]:
        """Return SB3's other tensors by name.

        Raises:
            ConfigError: they are damaged.
        """
        return self._state_dict(VARIABLES) if VARIABLES in self._infos else {}

    def _state_dict(self, member: str) -> dict[str, Any]:
        data = self.read(member)
        with converted(f"{self.name} is not a saved model: {member}"):
            with zipfile.ZipFile(io.BytesIO(data)) as inner:
                _checked(inner, member)
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            if state is None and member == VARIABLES:
                return {}
            if not isinstance(state, Mapping):
                raise ConfigError(f"it has {shown(state)} instead of tensors by name")
            _check_size(state, len(data))
        return dict(state)


@contextmanager
def open_archive(source: Any) -> Iterator[Archive]:
    """Open a saved model: a path, with or without `.zip`, or a stream.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it is not a zip file, or its members are too large, too many, or have wrong names.
    """
    name = str(source) if isinstance(source, (str, Path)) else "the stream"
    with converted(name):
        try:
            stream = open_path(source, "r", suffix="zip")
        except FileNotFoundError as error:
            missing = error
            stream = None
    if stream is None:
        raise missing
    try:
        with converted(f"{name} is not a saved model"), _zip_file(stream, name) as file:
            yield Archive(file, name)
    finally:
        if isinstance(source, (str, Path)):
            stream.close()


def _zip_file(stream: Any, name: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise ConfigError(f"{name} is not a saved model: the file wasn't a zip-file") from error  # SB3's words


def array_member(number: str) -> str:
    """Return the name of the member that has an array."""
    return f"pgzoo/{number}.npy"


def read_json(text: str) -> Any:
    """Return JSON's content. Unlike Python's reader, it refuses NaN, infinities, repeated keys and deep nesting.

    Raises:
        ValueError: the text is not such JSON.
    """
    depth = 0
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[{\]}]', text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > DEEPEST_JSON:
            raise ValueError(f"it is nested more than {DEEPEST_JSON} levels deep")
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key occurs twice")
    return content


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _checked(file: zipfile.ZipFile, name: str) -> dict[str, zipfile.ZipInfo]:
    """Return a zip file's members by name, after checking its table of contents."""
    infos = {info.filename: info for info in file.infolist()}
    if len(infos) < len(file.infolist()):
        raise ConfigError(f"{name} is not a saved model: two of its members have the same name")
    if len(infos) > MOST_MEMBERS:
        raise ConfigError(f"{name} is not a saved model: it has more than {MOST_MEMBERS:,} members")
    packed, total = _size(file), sum(info.file_size for info in infos.values())
    if total > max(SMALL, LARGEST_EXPANSION * packed):
        raise ConfigError(f"{name} is not a saved model: {packed:,} bytes would expand to {total:,}")
    if any(info.flag_bits & 1 for info in infos.values()):
        raise ConfigError(f"{name} is not a saved model: it is encrypted")
    return infos


def _size(file: zipfile.ZipFile) -> int:
    assert file.fp is not None
    position = file.fp.tell()
    size = file.fp.seek(0, io.SEEK_END)
    file.fp.seek(position)
    return size


def _read_array(data: bytes) -> Array:
    """Return the array of an `.npy` file. Its size is compared with its header's shape before memory is allocated."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"its version is {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError("its header does not fit its size")
    stream.seek(0)
    array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _check_size(state: Any, n_bytes: int) -> None:
    """Refuse a state dict that is larger than its file: tensors that repeat memory, lists that contain each other."""
    nodes = [(state, 0)]
    visited = total = 0
    while nodes:
        node, depth = nodes.pop()
        visited += 1
        if isinstance(node, torch.Tensor):
            if node.layout is not torch.strided or type(node) not in (torch.Tensor, torch.nn.Parameter):
                raise ConfigError("it has a tensor that is not dense")
            total = max(total, node.numel() * node.element_size())
        elif isinstance(node, Mapping):
            nodes += [(item, depth + 1) for pair in node.items() for item in pair]
        elif isinstance(node, (list, tuple, set, frozenset)):
            nodes += [(item, depth + 1) for item in node]
        if total > n_bytes or visited + len(nodes) > MOST_NODES or depth > DEEPEST_JSON:
            raise ConfigError("its content is larger than the file")
