"""Copy the best agents of a benchmark to agents/, from where pgzoo ships them.

    python benchmarks/agents.py logs/benchmark/zoo CartPole-v1 Acrobot-v1 …

For each recipe and environment this is the final agent of the seed with the highest mean return. It was chosen among
all seeds, so its own mean is optimistic: score.yml also has the interquartile mean of all seeds. A recipe is left out
where its interquartile mean is less than nine tenths of the way from random actions to the best.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from pgzoo.benchmark.jobs import RUN, SETTINGS, read_json
from pgzoo.benchmark.summary import Environment, Row, is_peer, summarize
from pgzoo.training.run_folder import RunFolder, file_name, write_yaml
from pgzoo.training.yaml_files import read_yaml_mapping

AGENTS = Path(__file__).parents[1] / "agents"
GOOD = 0.9


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.argument("envs", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), default=AGENTS, show_default=True)
def main(folder: Path, envs: tuple[str, ...], out: Path) -> None:
    """Copy the best agents."""
    for environment in summarize(folder).environments:
        if environment.name in envs:
            for row in environment.rows:
                if not is_peer(row.algorithm) and is_good(environment, row):
                    copy(folder, environment.name, row, out)
    size = sum(file.stat().st_size for file in out.rglob("*.zip"))
    click.echo(f"{len(list(out.rglob('*.zip')))} agents, {size / 1e6:.1f} MB")


def is_good(environment: Environment, row: Row) -> bool:
    """Whether a recipe is close to the best on an environment."""
    best = max(other.score.value for other in environment.rows)
    low = environment.random if environment.random is not None else min(float(x.scores.min()) for x in environment.rows)
    return bool(row.score.value >= low + GOOD * (best - low))


def copy(folder: Path, env: str, row: Row, out: Path) -> None:
    """Copy the final agent of a recipe's best seed, with its configuration and its score."""
    best = max(row.runs, key=lambda run: run.score)
    name = file_name(env)
    job = folder / name / row.algorithm / f"seed_{best.seed}"
    source, target = RunFolder(job / RUN, name), RunFolder(out / row.algorithm / f"{name}_1", name)
    shutil.rmtree(target.path, ignore_errors=True)
    target.details.mkdir(parents=True)
    shutil.copyfile(source.model, target.model)
    shutil.copyfile(source.details / "config.yml", target.details / "config.yml")
    arguments = read_yaml_mapping(source.details / "args.yml")
    kept = ("plugin", "env", "seed", "gym_packages")
    write_yaml(target.details / "args.yml", {key: arguments[key] for key in kept if key in arguments})
    document = read_json(job / SETTINGS) or {}
    score = {
        "mean_return": round(best.score, 2),
        "seed": best.seed,
        "all_seeds": {
            "interquartile_mean": round(float(row.score.value), 2),
            "interval": [round(float(row.score.low), 2), round(float(row.score.high), 2)],
            "n_seeds": len(row.runs),
        },
        "command": document.get("command", ""),
        "versions": document.get("versions", []),
    }
    write_yaml(target.details / "score.yml", score)


if __name__ == "__main__":
    main()
