"""The normalisation that belongs to a model: the settings and statistics of VecNormalize as numbers and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from pgzoo.errors import ConfigError
from pgzoo.interface.hyperparameters import shown
from pgzoo.interface.types import Array

NUMBERS = ("clip_obs", "clip_reward", "gamma", "epsilon")


@dataclass(frozen=True)
class Moments:
    """A running mean and variance.

    Attributes:
        mean: the mean, of the shape of the normalised number or observation.
        var: the variance, of the same shape.
        count: how many numbers or observations there were.
    """

    mean: Array
    var: Array
    count: float

    @classmethod
    def of(cls, rms: RunningMeanStd) -> Moments:
        """Return a copy of SB3's moments."""
        return cls(np.array(rms.mean), np.array(rms.var), float(rms.count))

    def check(self, shape: tuple[int, ...], what: str) -> None:
        """Raise ConfigError unless the moments are finite and have a shape."""
        for array in (self.mean, self.var):
            if not isinstance(array, np.ndarray) or array.shape != shape:
                raise ConfigError(f"{what} has statistics of the shape {np.shape(array)}, not {shape}")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.var).all() and np.isfinite(self.count)):
            raise ConfigError(f"{what} has statistics that are not finite")

    def as_sb3(self) -> RunningMeanStd:
        """Return a copy in SB3's form."""
        rms = RunningMeanStd(shape=self.mean.shape)
        rms.mean, rms.var, rms.count = self.mean.copy(), self.var.copy(), self.count
        return rms


@dataclass(frozen=True)
class Normalizer:
    """How a model's observations and rewards were normalised. The settings have the names of VecNormalize.

    Attributes:
        obs_rms: the moments of the observations by key, "" for an observation that is not a Dict. Empty if observations
            are not normalised.
        ret_rms: the moments of the discounted return.
    """

    norm_obs: bool
    norm_reward: bool
    clip_obs: float
    clip_reward: float
    gamma: float
    epsilon: float
    norm_obs_keys: list[str] | None
    obs_rms: Mapping[str, Moments]
    ret_rms: Moments

    @classmethod
    def of(cls, normalized: VecNormalize) -> Normalizer:
        """Return a copy of what a VecNormalize has learned."""
        moments: Any = normalized.obs_rms if normalized.norm_obs else {}
        by_key = moments if isinstance(moments, dict) else {"": moments}
        return cls(
            normalized.norm_obs, normalized.norm_reward, float(normalized.clip_obs), float(normalized.clip_reward),
            float(normalized.gamma), float(normalized.epsilon), normalized.norm_obs_keys,
            {key: Moments.of(rms) for key, rms in by_key.items()}, Moments.of(normalized.ret_rms),
        )  # fmt: skip

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Normalizer:
        """Return the normalizer that `as_data` described.

        Raises:
            ConfigError: a value has the wrong type.
        """
        fields = dict(data)
        fields["obs_rms"] = {key: Moments(**moments) for key, moments in fields["obs_rms"].items()}
        fields["ret_rms"] = Moments(**fields["ret_rms"])
        normalizer = cls(**fields)
        for name in NUMBERS:
            number = getattr(normalizer, name)
            if type(number) is not float or np.isnan(number):
                raise ConfigError(f"normalizer.{name} must be a number, not {shown(number)}")
        if type(normalizer.norm_obs) is not bool or type(normalizer.norm_reward) is not bool:
            raise ConfigError("normalizer.norm_obs and norm_reward must be true or false")
        keys = normalizer.norm_obs_keys
        if keys is not None and not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
            raise ConfigError(f"normalizer.norm_obs_keys must be a list of keys, not {shown(keys)}")
        for moments in (*normalizer.obs_rms.values(), normalizer.ret_rms):
            moments.check(np.shape(moments.mean), "the normalizer")
        return normalizer

    def as_data(self) -> dict[str, Any]:
        """Return the fields as numbers, mappings and arrays."""
        return asdict(self)

    def check(self, space: spaces.Space[Any], what: str = "the normalizer") -> None:
        """Raise ConfigError unless the statistics are finite and of the shapes of a space of raw observations."""
        self.ret_rms.check((), what)
        entries = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        for key, moments in self.obs_rms.items():
            if key not in entries:
                raise ConfigError(f"{what} has statistics of {key!r}, which is not in the observation")
            moments.check(entries[key].shape or (), what)

    def normalize_obs(self, observation: Any) -> Any:
        """Return observations as VecNormalize would, without changing the statistics.

        Args:
            observation: one or several raw observations; for Dict spaces, a mapping of them.
        """
        if not self.norm_obs:
            return observation
        if isinstance(observation, Mapping):
            return {key: self._normalized(key, x) if key in self.obs_rms else x for key, x in observation.items()}
        return self._normalized("", observation)

    def _normalized(self, key: str, observation: Any) -> Array:
        moments = self.obs_rms[key]
        scaled = (observation - moments.mean) / np.sqrt(moments.var + self.epsilon)
        return np.clip(scaled, -self.clip_obs, self.clip_obs).astype(np.float32)  # type: ignore[no-any-return]

    def copy_to(self, normalized: VecNormalize) -> None:
        """Set the statistics of a VecNormalize. Its settings, such as `clip_obs`, stay as they are."""
        moments = {key: rms.as_sb3() for key, rms in self.obs_rms.items()}
        if moments:
            normalized.obs_rms = moments.get("", moments)  # type: ignore[assignment]  # SB3 annotates one moment only
        normalized.ret_rms = self.ret_rms.as_sb3()

    def wrap(self, env: VecEnv, *, training: bool = False) -> VecNormalize:
        """Return the environments in a VecNormalize with these settings and statistics.

        Args:
            env: environments with raw observations.
            training: whether the statistics go on and rewards are normalised.

        Raises:
            ConfigError: the observations have another shape.
        """
        self.check(env.observation_space)
        normalized = VecNormalize(
            env, training, self.norm_obs, self.norm_reward and training, self.clip_obs, self.clip_reward, self.gamma,
            self.epsilon, self.norm_obs_keys,
        )  # fmt: skip
        self.copy_to(normalized)
        return normalized
