"""The file formats of an exported policy: writing them, and running them again."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch

from pgzoo.errors import ConfigError, describe, is_machine_fault
from pgzoo.export.deterministic import DeterministicPolicy
from pgzoo.interface.types import Array

Run: TypeAlias = "Callable[[Any], Array]"
"""Returns the actions of a file for a batch of raw observations."""

NEEDED = ("onnx", "onnxscript", "onnxruntime")


def write_onnx(
    module: DeterministicPolicy, observations: Any, names: list[str], metadata: Mapping[str, Any], file: Path
) -> None:
    """Write a policy as ONNX. The batch size is free, and the metadata are the file's metadata properties.

    Args:
        module: the policy.
        observations: two observations, as tensors.
        names: the names of the inputs and of the output.
        metadata: plain data by name.
        file: the file.

    Raises:
        ConfigError: a package is missing, or the policy contains operations that ONNX lacks.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"export to ONNX needs {' and '.join(missing)}; run: pip install 'pgzoo[export]'")
    batch = torch.export.Dim("batch")
    shapes = {key: {0: batch} for key in observations} if isinstance(observations, dict) else {0: batch}
    with _exporting("ONNX"):
        program = torch.onnx.export(
            module,
            kwargs={"observation": observations},
            input_names=names[:-1],
            output_names=names[-1:],
            dynamic_shapes={"observation": shapes},
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props.update(
            {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
        )
        program.save(str(file), external_data=False)


def run_onnx(file: Path, names: list[str]) -> Run:
    """Return a function that runs an ONNX file with onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(observations: Any) -> Array:
        inputs = observations if isinstance(observations, dict) else {names[0]: observations}
        (actions,) = session.run(names[-1:], inputs)
        return actions  # type: ignore[no-any-return]

    return run


def write_torchscript(
    module: DeterministicPolicy, observations: Any, names: list[str], metadata: Mapping[str, Any], file: Path
) -> None:
    """Write a policy as TorchScript. The arguments are those of `write_onnx`; `metadata.json` is an extra file.

    Raises:
        ConfigError: the policy contains operations that TorchScript lacks.
    """
    with _exporting("TorchScript"):
        traced = torch.jit.trace(module, (observations,), check_trace=False)  # type: ignore[no-untyped-call]
        stream = io.BytesIO()  # torch ends the process if a file of its own cannot be written
        torch.jit.save(traced, stream, _extra_files={"metadata.json": json.dumps(metadata, indent=2)})
    file.write_bytes(stream.getvalue())


def run_torchscript(file: Path, names: list[str]) -> Run:
    """Return a function that runs a TorchScript file on the CPU."""
    with _exporting("TorchScript"):
        loaded = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]

    def run(observations: Any) -> Array:
        with torch.no_grad():
            return loaded(tensors(observations)).numpy()  # type: ignore[no-any-return]

    return run


def tensors(observations: Any) -> Any:
    """Return arrays as tensors."""
    if isinstance(observations, Mapping):
        return {key: torch.as_tensor(array) for key, array in observations.items()}
    return torch.as_tensor(observations)


@contextmanager
def _exporting(name: str) -> Iterator[None]:
    """Let torch export SB3's distributions, without its warnings. Its errors become ConfigErrors.

    The arguments of distributions are not validated meanwhile, because the result depends on data, which a graph
    cannot contain.
    """
    validated = _validates_arguments()
    level = logging.getLogger("torch").level
    torch.distributions.Distribution.set_default_validate_args(False)
    logging.getLogger("torch").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # each step of torch's exporters has its exceptions
        if is_machine_fault(error):
            raise
        reason = describe(error.__cause__ or error)
        raise ConfigError(f"this policy cannot be exported to {name}: {reason}") from error
    finally:
        logging.getLogger("torch").setLevel(level)
        torch.distributions.Distribution.set_default_validate_args(validated)


def _validates_arguments() -> bool:
    """Whether torch's distributions validate their arguments by default."""
    try:
        torch.distributions.Normal(torch.nan, 1.0)
    except ValueError:
        return True
    return False
