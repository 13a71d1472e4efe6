"""`pgzoo.json`: what a saved model is, by sections of values. Values that are code are only in SB3's pickled data."""

from __future__ import annotations

import base64
import json
import pickletools
import zipfile
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
from stable_baselines3.common.save_util import json_to_data

from pgzoo.errors import ConfigError, converted
from pgzoo.interface.hyperparameters import shown
from pgzoo.model_file.archive import DATA, DOCUMENT, LARGEST_JSON, Archive, array_member
from pgzoo.model_file.values import Decoder, Encoder, NotDataError

FORMAT: Final = 1
"""The version of the format. A file of another version is refused."""

CODE: Final = "code"
PICKLED: Final = ":serialized:"
MOST_NAMES = 3

Sections = Mapping[str, Mapping[str, Any]]


class UntrustedError(ConfigError):
    """A file can only be loaded by running code that it contains."""


def encoded(sections: Sections) -> tuple[dict[str, Any], list[Any]]:
    """Return the document and its arrays. Values that data cannot describe are named in its section `code`.

    Args:
        sections: values by name, in named sections. A name occurs once.
    """
    encoder = Encoder()
    document: dict[str, Any] = {"format": FORMAT}
    code: dict[str, str] = {}
    for section, values in sections.items():
        document[section] = {}
        for name, value in values.items():
            n_arrays = len(encoder.arrays)
            try:
                document[section][name] = encoder.encode(value)
            except NotDataError as error:
                code[name] = str(error)
                del encoder.arrays[n_arrays:]
    return {**document, CODE: code}, encoder.arrays


def write(file: zipfile.ZipFile, document: Mapping[str, Any], arrays: Sequence[Any]) -> None:
    """Add the document and its arrays to SB3's zip file."""
    file.writestr(DOCUMENT, json.dumps(document, indent=1, allow_nan=False))
    for number, array in enumerate(arrays):
        with file.open(array_member(str(number)), "w") as member:
            np.lib.format.write_array(member, np.asarray(array), version=(1, 0), allow_pickle=False)


def read(
    archive: Archive,
    sections: Collection[str],
    *,
    trusted: bool,
    replaced: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> Sections:
    """Return the sections of a saved model, and the values that are code in the section `code`.

    Args:
        archive: the saved model.
        sections: the names that the document must have.
        trusted: whether to unpickle the values that are code.
        replaced: other values. Those of the file that they replace are not unpickled.
        defaults: what to return for values that cannot be unpickled. SB3 warns of them.

    Raises:
        UntrustedError: a value is code, and the file is not trusted.
        ConfigError: the file is not of pgzoo, has another format, or is damaged.
    """
    decoded, names = read_data(archive, sections)
    code = [name for name in names if name not in replaced]
    pickled = unpickled(archive, code, trusted=trusted, defaults=defaults) if code else {}
    return {**decoded, CODE: {**pickled, **{name: replaced[name] for name in names if name in replaced}}}


def read_data(archive: Archive, sections: Collection[str]) -> tuple[Sections, Collection[str]]:
    """Return the sections of a saved model without the values that are code, and the names of these.

    Raises:
        ConfigError: the file is not of pgzoo, has another format, or is damaged.
    """
    document = archive.json(DOCUMENT)
    where = f"{archive.name} is not a saved model: {DOCUMENT}"
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise ConfigError(f"{where} has no format")
    if (version := document.pop("format")) != FORMAT:
        raise ConfigError(f"{archive.name} has the format {version}, but this version of pgzoo reads {FORMAT}")
    for name in {*document, *sections, CODE}:
        if not isinstance(document.get(name), dict):
            raise ConfigError(f"{where} has no section {shown(name)}")
        if name not in (*sections, CODE):
            raise ConfigError(f"{where} has an unexpected section {shown(name)}")
    names = [name for section in document.values() for name in section]
    if len(set(names)) < len(names):
        raise ConfigError(f"{where} has a name twice")
    if wrong := [name for name in document[CODE] if not name.isidentifier()]:
        raise ConfigError(f"{where} has {shown(wrong[0])} instead of the name of an attribute")
    decoder = Decoder(archive.array)
    with converted(where):
        decoded = {section: _mapping(decoder.decode(document[section])) for section in sections}
    return decoded, list(document[CODE])


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ConfigError("a section is not a mapping")
    return value


def unpickled(
    archive: Archive, names: Collection[str] | None, *, trusted: bool, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return values of SB3's `data`.

    Args:
        archive: the saved model.
        names: the values to return; None for all.
        trusted: whether values may be unpickled.
        defaults: what to return for values that cannot be unpickled. SB3 warns of them.

    Raises:
        UntrustedError: the file is not trusted. The message says what would run.
        ConfigError: another value is missing or cannot be unpickled.
    """
    data = _pickled_data(archive)
    if not isinstance(data, dict):
        raise ConfigError(f"{archive.name} is not a saved model: {DATA} is not a mapping")
    chosen = dict(data) if names is None else {name: data[name] for name in names if name in data}
    if not trusted:
        raise UntrustedError(_refusal(archive.name, chosen, names or ()))
    with converted(f"cannot load {archive.name}"):
        values = json_to_data(json.dumps(chosen))
    values = {**{name: x for name, x in (defaults or {}).items() if name in chosen}, **values}
    if missing := [name for name in names or chosen if name not in values]:
        raise ConfigError(f"cannot load {archive.name}: its {missing[0]} is missing or cannot be unpickled")
    return values


def _pickled_data(archive: Archive) -> Any:
    """Return SB3's data. Unlike pgzoo's, it may contain NaN and infinities, which Python's reader accepts."""
    text = archive.read(DATA, LARGEST_JSON)
    with converted(f"{archive.name} is not a saved model: {DATA}"):
        return json.loads(text)


def _refusal(file: str, data: Mapping[str, Any], names: Collection[str]) -> str:
    """Return why a file is not loaded, and what would run."""
    pickled = {name: item[PICKLED] for name, item in data.items() if isinstance(item, dict) and PICKLED in item}
    calls = [call for item in pickled.values() for call in pickled_names(item)]
    unusual = [call for call in calls if call.split(".")[0] not in ("builtins", "numpy", "collections")]
    some = [call if call.isprintable() else shown(call) for call in dict.fromkeys(unusual or calls)]
    shown_names = ", ".join(some[:MOST_NAMES]) + (" and others" if len(some) > MOST_NAMES else "")
    what = ", ".join(list(names or pickled)[:MOST_NAMES])
    return (
        f"{file} is not loaded, because its {what} can only be unpickled, which runs code that the file chooses"
        f"{f' ({shown_names})' if some else ''}; pass trusted=True (--trust) if you trust its author"
    )


def pickled_names(text: Any) -> list[str]:
    """Return the import paths that a pickled value of SB3's data uses. Nothing is unpickled."""
    names: list[str] = []
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(base64.b64decode(text)):
            if opcode.name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:  # it is damaged
        names.append("damaged data")
    return names
