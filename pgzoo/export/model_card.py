"""The model card of a run: what the Hugging Face Hub shows, and reads in its YAML header."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from pgzoo import __version__
from pgzoo.formatting import format_number
from pgzoo.training.evaluation import Evaluation
from pgzoo.training.run_folder import plain


@dataclass(frozen=True)
class Card:
    """What a model card says.

    Attributes:
        repo_id: the repository, `user/name`.
        plugin: the recipe or combination.
        env: the environment.
        model: the name of the model's file.
        command: the command that trained it.
        seed: the seed of training; None if it is not known.
        eval_seed: the seed of the first environment of the evaluation.
        evaluation: the returns.
        config: the run's hyperparameters.
        versions: versions of packages by name.
        replay: whether there is a video.
    """

    repo_id: str
    plugin: str
    env: str
    model: str
    command: str
    seed: int | None
    eval_seed: int
    evaluation: Evaluation
    config: dict[str, Any]
    versions: dict[str, Any]
    replay: bool

    def text(self) -> str:
        """Return the card as Markdown with a YAML header."""
        score = self.evaluation
        low, high = map(format_number, score.interval)
        seed = "a seed that is not known" if self.seed is None else f"seed {self.seed}"
        versions = ", ".join(f"{name} {self.versions[name]}" for name in sorted(self.versions))
        video = "\nA replay of one episode is in `replay.mp4`.\n" if self.replay else ""
        return f"""---
{_yaml(self.header())}---

# {self.plugin} on {self.env}

A policy for `{self.env}`, trained with [pgzoo](https://github.com/pgzoo/pgzoo) {__version__} and its plugin
`{self.plugin}`.
{video}
| episodes | mean return | 95 % interval | std | mean length |
|---|---|---|---|---|
| {len(score.returns)} | {format_number(score.mean)} | {low} to {high} | {format_number(score.std)} | \
{format_number(sum(score.lengths) / len(score.lengths))} |

It is one training run, with {seed}. The interval is a bootstrap over its episodes, not over runs. Actions are the most
likely ones, and the environment's seed is {self.eval_seed}.

## Use it

    pgzoo pull {self.repo_id}

```python
import pgzoo

model = pgzoo.PolicyGradient.load(pgzoo.load_from_hub("{self.repo_id}"))
```

The file `{self.model}` also opens with `A2C.load` of Stable-Baselines3.

## How it was trained

    {self.command}

```yaml
{_yaml(self.config)}```

{versions}
"""

    def header(self) -> dict[str, Any]:
        """Return the metadata, with the score as other Stable-Baselines3 models write it."""
        metric = f"{self.evaluation.mean:.2f} +/- {self.evaluation.std:.2f}"
        task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        result = {
            "task": task,
            "dataset": {"name": self.env, "type": self.env},
            "metrics": [{"type": "mean_reward", "value": metric, "name": "mean_reward", "verified": False}],
        }
        tags = [self.env, "deep-reinforcement-learning", "reinforcement-learning", "stable-baselines3", "pgzoo"]
        return {
            "library_name": "stable-baselines3",
            "pipeline_tag": "reinforcement-learning",
            "tags": tags,
            "model-index": [{"name": self.plugin, "results": [result]}],
        }


def _yaml(data: Any) -> str:
    from ruamel.yaml import YAML

    yaml, stream = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.dump(plain(data), stream)
    return stream.getvalue()
