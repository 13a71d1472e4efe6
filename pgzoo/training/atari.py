"""Atari games in ALE's and EnvPool's vector environments, with the preprocessing of SB3's AtariWrapper."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from stable_baselines3.common.atari_wrappers import ClipRewardEnv, EpisodicLifeEnv
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.types import Array
from pgzoo.sampling.gymnasium_vec_env import GymnasiumVecEnv
from pgzoo.training.imports import imported
from pgzoo.training.vec_envs import EnvPoolVectorEnv, import_envpool

ALE_VECTOR_ENV = "ale_py.vector_env:AtariVectorEnv"
NOOP, FIRE = 0, 1
"""Actions of every game that has them. SB3's AtariWrapper requires these numbers, too."""


@dataclass(frozen=True)
class AtariPreprocessing:
    """The arguments of SB3's AtariWrapper, with its defaults."""

    noop_max: int = 30
    frame_skip: int = 4
    screen_size: int = 84
    terminal_on_life_loss: bool = True
    clip_reward: bool = True
    action_repeat_probability: float = 0.0

    @classmethod
    def of(cls, kwargs: Mapping[str, Any], vec_env: str) -> AtariPreprocessing:
        """Return the preprocessing that AtariWrapper's arguments describe.

        Raises:
            ConfigError: an argument is unknown, or vector environments do not have it.
        """
        names = [field.name for field in fields(cls)]
        for name in kwargs:
            if name not in names:
                raise ConfigError(f"env_wrapper: {unknown('argument of AtariWrapper', name, names)}")
        preprocessing = cls(**kwargs)
        if preprocessing.action_repeat_probability:
            raise ConfigError(
                f"--vec-env {vec_env} has no action_repeat_probability of AtariWrapper; use "
                "--env-kwargs repeat_action_probability:P"
            )
        return preprocessing


def make_atari(
    name: str, num_envs: int, kwargs: Mapping[str, Any], preprocessing: AtariPreprocessing, *, envpool: bool
) -> tuple[GymnasiumVecEnv, bool]:
    """Return a game's vector environment with whole games as episodes and unclipped rewards, and whether it has FIRE.

    `AtariVecEnv` adds lost lives and clipped rewards. It does not stack frames, which SB3's VecFrameStack does.

    Args:
        name: `ALE/Pong-v5` or `PongNoFrameskip-v4`.
        num_envs: the number of environments.
        kwargs: arguments of `gymnasium.make`, or of the vector environment.
        preprocessing: what SB3's AtariWrapper would do.
        envpool: whether to use EnvPool's environments instead of ALE's.

    Raises:
        gymnasium.error.Error: there is no such game, or it does not accept the arguments.
        ConfigError: EnvPool is not installed, or does not have the game.
    """
    name = imported(name)
    spec = gym.spec(name)
    own = {**spec.kwargs, "frameskip": 1, **kwargs}  # AtariWrapper repeats what the environment itself repeats
    game = own.pop("game")
    frames, limit = own.pop("frameskip") * preprocessing.frame_skip, own.pop("max_num_frames_per_episode")
    limit = own.pop("max_episode_steps", limit)
    common = {
        "noop_max": max(preprocessing.noop_max, 1),
        "img_height": preprocessing.screen_size,
        "img_width": preprocessing.screen_size,
        "stack_num": 1,
        "episodic_life": False,
        **own,
    }
    has_fire = _has_fire(name, kwargs)
    if envpool:
        task = f"{spec.name.removesuffix('NoFrameskip')}-v5"
        if task not in import_envpool().list_all_envs():
            raise ConfigError(f"EnvPool does not have {name}; use --vec-env vector")
        pool = EnvPoolVectorEnv(
            task, num_envs, frame_skip=frames, max_episode_steps=-(-limit // frames), reward_clip=False, **common
        )
        return GymnasiumVecEnv(pool, spec), has_fire
    vector_env = _make_ale(
        spec, num_envs, {"game": game, "frameskip": frames, "max_num_frames_per_episode": limit, **common}
    )
    return GymnasiumVecEnv(_ALEResets(vector_env), spec), has_fire


def _make_ale(spec: gym.envs.registration.EnvSpec, num_envs: int, kwargs: Mapping[str, Any]) -> Any:
    """Return ALE's vector environment. It sets its autoreset mode in a dict that all classes share, which is undone."""
    shared = dict(VectorEnv.metadata)
    try:
        vector_env: Any = gym.make_vec(
            replace(spec, vector_entry_point=ALE_VECTOR_ENV, kwargs={}),
            num_envs,
            vectorization_mode="vector_entry_point",
            reward_clipping=False,
            autoreset_mode=AutoresetMode.SAME_STEP,
            **kwargs,
        )
        vector_env.unwrapped.metadata = dict(VectorEnv.metadata)
    finally:
        VectorEnv.metadata.clear()
        VectorEnv.metadata.update(shared)
    vector_env.unwrapped.render_mode = None
    return vector_env


def _has_fire(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a game is started by FIRE, which is then its second action."""
    if importlib.util.find_spec("ale_py") is None:
        return False
    env: Any = gym.make(name, **{k: v for k, v in kwargs.items() if k == "full_action_space"})
    try:
        return "FIRE" in env.unwrapped.get_action_meanings()
    finally:
        env.close()


class _ALEResets(VectorWrapper[Any, Any, Any, Any, Any]):
    """ALE's vector environment with seeds as Gymnasium's other vector environments take them: a list, with None."""

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those of options["reset_mask"]."""
        if isinstance(seed, list):
            mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
            seed = np.array([-1 if n is None else n % 2**31 for n in seed])[mask]
        return self.env.reset(seed=seed, options=options)


class AtariVecEnv(VecEnvWrapper):
    """Ends an episode where a life is lost, and clips rewards to their sign, as SB3's AtariWrapper does.

    It wraps a VecMonitor, which therefore sees whole games and their true scores, as SB3's Monitor does. A game cannot
    be stepped alone to start its next life, so the first action of a life is FIRE, whatever the policy chooses.

    Args:
        venv: environments whose infos have `lives`, and whose episodes are whole games.
        preprocessing: what to do.
        has_fire: whether action 1 of the game is FIRE.
    """

    def __init__(self, venv: VecEnv, preprocessing: AtariPreprocessing, *, has_fire: bool) -> None:
        super().__init__(venv)
        self._preprocessing, self._has_fire = preprocessing, has_fire
        self._lives = np.zeros(self.num_envs, dtype=int)
        self._lost = np.zeros(self.num_envs, dtype=bool)

    def reset(self) -> Any:
        """Begin a new game in every environment."""
        observations = self.venv.reset()
        self.reset_infos = self.venv.reset_infos
        self._lives = np.array([info["lives"] for info in self.venv.unwrapped.reset_infos])
        self._lost[:] = False
        return observations

    def step_async(self, actions: Array) -> None:
        """Begin a step."""
        self.venv.step_async(np.where(self._lost, FIRE, actions) if self._has_fire else actions)

    def step_wait(self) -> tuple[Any, Array, Array, list[dict[str, Any]]]:
        """Finish a step. A lost life is a termination, and the game goes on from its observation."""
        observations: Any
        observations, rewards, dones, infos = self.venv.step_wait()
        lives = np.array([info["lives"] for info in infos])
        if self._preprocessing.terminal_on_life_loss:
            self._lost = (lives > 0) & (lives < self._lives) & ~dones
            for n in np.flatnonzero(self._lost).tolist():
                infos[n] = {**infos[n], "terminal_observation": observations[n].copy(), "TimeLimit.truncated": False}
            dones = dones | self._lost
        self._lives = lives
        if self._preprocessing.clip_reward:
            rewards = np.sign(rewards)
        return observations, rewards, dones, infos

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Return whether the environments do what a wrapper of SB3 does: an episode may be a life."""
        does = {
            EpisodicLifeEnv: self._preprocessing.terminal_on_life_loss,
            ClipRewardEnv: self._preprocessing.clip_reward,
        }
        if wrapper_class in does:
            return [does[wrapper_class]] * len(list(self._get_indices(indices)))
        return super().env_is_wrapped(wrapper_class, indices)
