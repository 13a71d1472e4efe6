"""Random damage to saved models, run folders and checkpoints, and what must be true of it. See `fuzzing`."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import pgzoo
from fuzz_commands import ACCEPTED, NUMBERS, REFUSED, SHORT, VALUES, Case, changed_lines, quiet, ran
from hypothesis import strategies as st
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from zips import members

from pgzoo import PgzooError, PolicyGradient
from pgzoo.errors import DivergenceError, MachineError

# ---------------------------------------------------------------- saved models

JUNK: list[Any] = [None, 0, -1, 1e400, "", "x", [], {}, [[1]], {"a": 1}, True, "\x00", 10**400, 0.5, 10**9]
SPACE = ["Discrete", {"n": 2, "start": 0, "dtype": "<i8"}]
JSON = st.one_of(
    st.sampled_from(JUNK), NUMBERS, st.text(max_size=5),
    st.tuples(
        st.sampled_from(["$array", "$class", "$made", "$dict", "$deque", "$numpy", "$tuple", "$float"]),
        st.sampled_from([*JUNK, "0", "torch.nn.ReLU", ["float32", 0.5], SPACE]),
    ).map(lambda item: {item[0]: item[1]}),
)  # fmt: skip
KEYS = ["predict", "learn", "policy", "save", "__class__", "_setup_model", "train", "$x", "note", "env", "device"]
REMOVED = "removed"
"""Stands for a value that is removed."""
TENSOR_CHANGES: dict[str, Callable[[Any], Any]] = {
    "flat": lambda x: x.flatten()[:-1] if isinstance(x, torch.Tensor) else None,
    "nan": lambda x: torch.full_like(x, float("nan")) if isinstance(x, torch.Tensor) and x.is_floating_point() else "x",
    "inf": lambda x: torch.full_like(x, float("inf")) if isinstance(x, torch.Tensor) and x.is_floating_point() else [],
    "complex": lambda x: x.to(torch.complex64) if isinstance(x, torch.Tensor) else {},
    "half": lambda x: x.half() if isinstance(x, torch.Tensor) else 1.5,
    "next": lambda x: x + 1 if isinstance(x, torch.Tensor) else x,
    "removed": lambda x: REMOVED,
    **{repr(junk)[:9]: lambda _, junk=junk: junk for junk in JUNK},  # type: ignore[misc]
}


def save_model(file: Path) -> None:
    """Save a small model with a part that learns, statistics, and an attribute of the user."""
    env = VecNormalize(make_vec_env("CartPole-v1", 2, seed=0), clip_obs=3.0, norm_reward=False)
    model: Any = PolicyGradient(
        "MlpPolicy", env, "advantage", policy_kwargs={"net_arch": [4]}, device="cpu", seed=0, n_steps=16
    )
    model.note = {"of": ("the user", 3)}
    model.learn(30)
    model.save(file)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every entry of a JSON document."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def model_cases(folder: Path) -> st.SearchStrategy[Case]:
    """Damage to a saved model: to its bytes, its members, its document and its tensors."""
    file = folder / "model.zip"
    save_model(file)
    size, content = file.stat().st_size, members(file)
    name, position = st.sampled_from(sorted(content)), st.integers(0, size - 1)
    flip = st.tuples(position, st.integers(1, 255))
    data = st.one_of(st.binary(max_size=40), st.integers(0, 3000).map(lambda n: n.to_bytes(2, "big")))
    tensors = [member for member in content if member.endswith(".pth") and "variables" not in member]
    new = st.sampled_from(["x", "setup.py", "../x.pth", "/x.pth", "pgzoo/99.npy", "critic.pth", "data", "pgzoo/00.npy"])
    document = json.loads(content["pgzoo.json"])
    return st.one_of(
        st.tuples(st.just("flip"), st.lists(flip, min_size=1, max_size=9)),
        st.tuples(st.just("cut"), position),
        st.tuples(st.just("insert"), position | st.just(size), data),
        st.tuples(st.just("without"), name),
        st.tuples(st.just("swap"), name, name),
        st.tuples(st.just("rename"), name, new),
        st.tuples(st.just("add"), new, data),
        st.tuples(st.just("member"), name, st.integers(0, 9000), st.integers(0, 50), data),
        st.tuples(st.just("entry"), st.sampled_from(list(places(document))), st.just(REMOVED) | JSON),
        st.tuples(st.just("new entry"), st.sampled_from(list(document)), st.sampled_from(KEYS) | st.text(), JSON),
        st.tuples(
            st.just("tensor"), st.sampled_from(tensors), st.integers(0, 20), st.sampled_from(list(TENSOR_CHANGES))
        ),
    )


def damaged(data: bytes, what: str, *details: Any) -> bytes:
    """Return a saved model with one kind of damage."""
    if what == "flip":
        flipped = bytearray(data)
        for position, mask in details[0]:
            flipped[position] ^= mask
        return bytes(flipped)
    if what == "cut":
        return data[: int(details[0])]
    if what == "insert":
        position, inserted = details
        return bytes(data[:position] + inserted + data[position:])
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        content = {name: file.read(name) for name in file.namelist()}
    change_members(content, what, *details)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file, quiet():
        for name, member in content.items():
            file.writestr(name, member)
    return stream.getvalue()


def change_members(content: dict[str, bytes], what: str, name: Any, *details: Any) -> None:
    if what == "without":
        del content[name]
    elif what == "swap":
        content[name], content[details[0]] = content[details[0]], content[name]
    elif what == "rename":
        content[details[0]] = content.pop(name)
    elif what == "add":
        content[name] = details[0]
    elif what == "member":
        start, length, data = details
        content[name] = content[name][:start] + data + content[name][start + length :]
    elif what == "tensor":
        content[name] = changed_tensors(content[name], *details)
    else:
        document = json.loads(content["pgzoo.json"])
        path, value = (name, details[0]) if what == "entry" else ((name, details[0]), details[1])
        change_entry(document, path, value)
        content["pgzoo.json"] = json.dumps(document).encode("utf-8", "surrogatepass")


def change_entry(document: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    if isinstance(value, str) and value == REMOVED:
        del document[path[-1]]
    elif isinstance(document, dict) or isinstance(path[-1], int):
        document[path[-1]] = value


def changed_tensors(data: bytes, number: int, change: str) -> bytes:
    """Return a saved state dict with one entry changed, at any depth."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    path = list(places(state))[number % len(list(places(state)))]
    value = state
    for key in path:
        value = value[key]
    change_entry(state, path, TENSOR_CHANGES[change](value))
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def meaning(data: bytes) -> dict[str, Any]:
    """Return what a saved model says, read without pgzoo: its document with arrays in their places, and its tensors."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:

        def resolved(value: Any) -> Any:
            if isinstance(value, list):
                return [resolved(item) for item in value]
            if not isinstance(value, dict):
                return value
            if list(value) == ["$array"]:
                return np.load(io.BytesIO(file.read(f"pgzoo/{value['$array']}.npy")), allow_pickle=False)
            return {key: resolved(item) for key, item in value.items()}

        tensors = {
            name: torch.load(io.BytesIO(file.read(name)), weights_only=True)
            for name in ("policy.pth", "policy.optimizer.pth")
        }
        return {"document": resolved(json.loads(file.read("pgzoo.json"))), **tensors}


def check_contains(actual: Any, said: Any, path: tuple[Any, ...] = ()) -> None:
    """Check that a model has what a file says. It may have more: defaults of what the file lacks."""
    where = ".".join(map(str, path))
    of_torch = any(str(key).endswith((".pth", "part_state_arrays")) for key in path)  # which keeps its own dtype
    if path[1:] == ("attributes", "saved_by"):
        return
    if path[1:3] == ("parts", "parts") and path[-1] in ("distribution", "class"):
        return  # where a part came from; a warning names another source
    if path[1:3] == ("states", "part_state_arrays") and "param_groups" in path:
        return  # the options of a part's optimizer are hyperparameters of the part
    if isinstance(said, dict) and any(str(key).startswith("$") for key in said):
        assert list(actual) == list(said), where
    if isinstance(said, dict):
        assert isinstance(actual, dict), where
        for key, value in said.items():
            assert key in actual, f"{where}.{key}"
            check_contains(actual[key], value, (*path, key))
    elif isinstance(said, (list, tuple)):
        assert len(actual) == len(said), where
        for i, (item, value) in enumerate(zip(actual, said, strict=True)):
            check_contains(item, value, (*path, i))
    elif isinstance(said, (torch.Tensor, np.ndarray)):
        number, expected = np.asarray(actual), np.asarray(said)
        assert number.dtype == expected.dtype or of_torch, where
        np.testing.assert_array_equal(number, expected.astype(number.dtype), err_msg=where)
    elif isinstance(actual, (torch.Tensor, np.ndarray)) and isinstance(said, (int, float)):
        assert actual.ndim == 0, where
        assert float(actual) == float(np.float32(said)), where  # torch's Adam counts steps in a tensor
    else:
        assert type(actual) is type(said) or {type(actual), type(said)} == {int, float}, f"{where}: {actual!r}"
        assert actual == said or (actual != actual and said != said), f"{where}: {actual!r}"


def check_model(folder: Path, *damage: Any) -> str:
    """Damaged bytes are refused, or change nothing that is read. A changed content is refused, or is what is loaded."""
    original = (folder / "model.zip").read_bytes()
    data = damaged(original, *damage)
    try:
        with quiet(), contextlib.redirect_stdout(None):
            model = PolicyGradient.load(io.BytesIO(data), device="cpu")
    except MachineError as error:
        raise AssertionError("a limit of the format is too high") from error
    except PgzooError as error:
        if not 1 <= len(str(error).splitlines()) <= 2:
            raise AssertionError(f"an error has too many lines: {error}") from error
        return REFUSED
    stream = io.BytesIO()
    model.save(stream)
    expected = meaning(original if damage[0] in ("flip", "cut", "insert") else data)
    check_contains(meaning(stream.getvalue()), expected)
    with contextlib.suppress(DivergenceError):  # a weight is NaN
        model.predict(np.zeros(4, dtype=np.float32))
    return ACCEPTED


# ---------------------------------------------------------------- run folders and checkpoints

LINE_VALUES = [
    "", " null", " -1", " .nan", " [1, x]", " {a: 1}", " x", " !!int y", " 1e400", " &a [*a]", " 2001-99-99", " 0",
    " 10000000000", " true", " ''", " 0.5",
]  # fmt: skip
TRAIN = ["train", "--plugin", "rtg_moving_average", "-n", "64", "--n-envs", "2", *SHORT, "-P", "normalize:true"]


def folder_cases(folder: Path) -> st.SearchStrategy[Case]:
    """Damage to a file of a run's folder: it is removed, replaced by a folder, cut or flipped, or a line is changed."""
    pgzoo(*TRAIN, cwd=folder)
    run = folder / "logs" / "rtg_moving_average" / "CartPole-v1_1"
    shutil.move(run, folder / "run")
    (folder / "expected").write_text(pgzoo("eval", "run", "-n", "1", "--json", cwd=folder).stdout)
    names = sorted(str(path.relative_to(folder / "run")) for path in (folder / "run").rglob("*") if path.is_file())
    line = st.tuples(
        st.just("line"), st.sampled_from(["CartPole-v1/config.yml", "CartPole-v1/args.yml"]), st.integers(0, 60),
        st.sampled_from(LINE_VALUES) | st.sampled_from(VALUES),
    )  # fmt: skip
    return st.one_of(file_damage(names), line, line)


def file_damage(names: list[str]) -> st.SearchStrategy[Case]:
    """Damage to one of some files."""
    name, position = st.sampled_from(names), st.integers(0, 100_000)
    return st.one_of(
        st.tuples(st.just("remove"), name),
        st.tuples(st.just("folder"), name),
        st.tuples(st.just("cut"), name, position),
        st.tuples(st.just("flip"), name, st.lists(st.tuples(position, st.integers(1, 255)), min_size=1, max_size=9)),
    )


def damage_file(folder: Path, what: str, name: str, *details: Any) -> None:
    file = folder / name
    data = file.read_bytes()
    file.unlink()
    if what == "folder":
        file.mkdir()
    elif what == "cut":
        file.write_bytes(data[: details[0] % max(len(data), 1)])
    elif what == "flip":
        flipped = bytearray(data)
        for position, mask in details[0] if data else ():
            flipped[position % len(data)] ^= mask
        file.write_bytes(flipped)
    elif what == "line":
        file.write_bytes(changed_lines(data.decode(), [("value", *details)]))


def check_folder(folder: Path, *damage: Any) -> str:
    """What `eval` accepts gives the result of the undamaged run, unless its configuration was changed."""
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        shutil.copytree(folder / "run", Path(directory) / "run")
        damage_file(Path(directory) / "run", *damage)
        outcome, printed = ran(["eval", "run", "-n", "1", "--json"], Path(directory))
    if outcome == ACCEPTED and damage[1].endswith((".zip", ".csv", ".npz", ".pkl")):
        assert json.loads(printed) == json.loads((folder / "expected").read_text())
    return outcome


LAST = Path("checkpoints", "64")


def checkpoint_cases(folder: Path) -> st.SearchStrategy[Case]:
    """Damage to a checkpoint from which a run is resumed."""
    pair = ["-P", "n_steps:16", "-P", "policy_kwargs:{net_arch: [4]}", "-P", "normalize:true"]
    command = ["train", "--plugin", "a2c", "-n", "96", "--n-envs", "2", *SHORT, *pair, "--checkpoint-every", "32"]
    pgzoo(*command, cwd=folder)
    run = folder / "logs" / "a2c" / "CartPole-v1_1"
    shutil.copy(run / "CartPole-v1.zip", folder / "expected.zip")
    (run / "checkpoints" / "finished").unlink()
    (run / "CartPole-v1.zip").unlink()
    shutil.move(run, folder / "run")
    last = folder / "run" / "checkpoints" / "64"
    state = json.loads((last / "state.json").read_bytes())
    change = st.tuples(
        st.just("state"), st.just(str(LAST)), st.sampled_from(list(places(state))), st.just(REMOVED) | JSON
    )
    return st.one_of(file_damage([str(LAST / name) for name in ("model.zip", "state.json", "state.npz")]), change)


def change_state(folder: Path, path: tuple[Any, ...], value: Any) -> None:
    """Change an entry of state.json, and its checksum."""
    state = json.loads((folder / "state.json").read_bytes())
    change_entry(state, path, value)
    text = json.dumps(state).encode("utf-8", "surrogatepass")
    (folder / "state.json").write_bytes(text)
    with np.load(folder / "state.npz") as file:
        arrays = {**file, "checksum": zlib.crc32(text)}
    np.savez(folder / "state.npz", **arrays)


def check_checkpoint(folder: Path, what: str, *damage: Any) -> str:
    """A run that is resumed from a damaged checkpoint ends as the run that was not interrupted.

    Another state with the right checksum is only known to be refused without a traceback, or to be used.
    """
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        run = Path(directory) / "run"
        shutil.copytree(folder / "run", run)
        if what == "state":
            change_state(run / damage[0], *damage[1:])
        else:
            damage_file(run, what, *damage)
        outcome, _ = ran(["train", "--resume", "run", "--no-progress", "--device", "cpu"], Path(directory))
        if outcome == ACCEPTED and what != "state":
            resumed = meaning((run / "CartPole-v1.zip").read_bytes())
            expected = meaning((folder / "expected.zip").read_bytes())
            for name in ("policy.pth", "policy.optimizer.pth"):
                check_contains(resumed[name], expected[name])
    return outcome
