"""Training and measuring: train, eval, verify."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import BatchSize, Checkpoint, Debug, Device, Dtype, Endpoint, Engine, Json, Name, Quiet, Workers
from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.train.loop import Progress

PANEL = "Train and measure"
DataRoot = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder that holds published sets.", show_default="$ZOO_DATA"),
]


def _recipes(incomplete: str) -> list[str]:
    from zoo.train.recipe import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


@app.command(rich_help_panel=PANEL)
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", help="A recipe's name, or a TOML file.", autocompletion=_recipes, show_default=False
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Values in place of the recipe's.", show_default=False),
    ] = None,
    data: DataRoot = None,
    to: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the run.", show_default="runs/RECIPE")
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto or cpu.")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that prepare pictures.", show_default="some, for files"),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write events for TensorBoard.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the recipes and stop.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the recipe in full, its size and steps; stop.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a model from a recipe.

    The same command goes on where a stopped or killed run left off. Ctrl-C saves first.
    A recipe's data.name is a published set, or files below --data: class folders, a list, webdataset shards.

    [bold]Examples[/]

    zoo train --list
    zoo train reste_resnet20_cifar --data ~/data
    zoo train reste_resnet20_cifar schedule.epochs=300 seed=1 --out runs/long
    zoo train tiny_imagenet model=timm:resnet18 init=pretrained --dry-run
    accelerate launch -m zoo train reste_resnet18_cifar_paper
    """
    from zoo.train.recipe import load_recipe

    if show_list:
        _list_recipes()
        return
    if recipe is None:
        raise UsageError("no recipe", hint="zoo train --list names them")
    resolved = load_recipe(recipe, tuple(overrides or ()))
    if dry_run:
        from zoo.train.plan import plan

        out.data(plan(resolved, data))
        return
    folder = to or Path("runs") / Path(recipe).stem

    from zoo.train.conduct import conduct

    with out.live() as show:

        def report(at: "Progress") -> None:
            show(_line(at), (at.epoch - 1 + at.step / at.steps) / at.epochs, stays=at.step == at.steps)

        def say(text: str) -> None:
            show(text, 0.0, stays=True)

        file = conduct(
            resolved,
            folder,
            data=data,
            device=device,
            workers=workers,
            say=say,
            tensorboard=tensorboard,
            report=report,
        )
    out.line(str(file))


@app.command("eval", rich_help_panel=PANEL)
def eval_(
    name: Name,
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A set, such as cifar10; a folder of class folders; a list; shards; hf: or torchvision:NAME.",
        ),
    ],
    data: DataRoot = None,
    split: Annotated[str, typer.Option(help="Part of the set: train, test, val.")] = "test",
    checkpoint: Checkpoint = None,
    draw: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the confusion matrix here.", rich_help_panel="Output"),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = None,
    workers: Workers = None,
    engine: Engine = None,
    endpoint: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Measure a classifier on labelled pictures.

    [bold]Examples[/]

    zoo eval reste_resnet20_cifar cifar10 --data ~/data
    zoo eval reste_resnet20_cifar my_pictures/ --json
    zoo eval reste_resnet20_cifar list.csv
    zoo eval reste_resnet20_cifar cifar10 --checkpoint runs/reste_resnet20_cifar/model.safetensors
    """
    from zoo.tasks.taught import taught_file

    if taught := taught_file(name):
        _eval_taught(taught, dataset, data, split, device, json)
        return
    from zoo.tasks.evaluate import evaluate

    with out.progress("eval") as step:
        result = evaluate(
            name,
            dataset,
            split=split,
            root=data,
            checkpoint_path=checkpoint,
            report=lambda done: step(),
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            workers=workers,
            engine=engine,
        )
    if json:
        out.data(result.to_dict())
    else:
        out.rich(result)
    if draw:
        from zoo.tasks.draw import save_picture

        save_picture(result.draw, draw)
        out.say(f"confusion matrix in {draw}")
    raise typer.Exit(out.Failures(result.failed).report(len(result) + len(result.failed)))


@app.command(rich_help_panel=PANEL)
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Models; none for all that have figures of ours.", show_default=False),
    ] = None,
    data: DataRoot = None,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    engine: Engine = None,
    endpoint: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Measure the figures on a model's card again and compare; exit code 4 if one does not hold.

    [bold]Examples[/]

    zoo verify reste_resnet20_cifar --data ~/data
    zoo verify --data ~/data
    """
    from zoo.tasks.evaluate import measured_names
    from zoo.tasks.evaluate import verify as run

    checks = []
    for name in names or measured_names():
        with out.progress(f"verify {name}") as step:
            checks += run(name, root=data, device=device, engine=engine, report=lambda done: step())
    if json:
        out.data([check.to_dict() for check in checks])
    else:
        out.table(
            ("model", "metric", "set", "card", "measured", "verdict"),
            [
                (
                    check.name,
                    check.figure.metric,
                    f"{check.figure.dataset} {check.figure.split}",
                    f"{check.figure.value:.2f}",
                    f"{check.measured:.2f}",
                    "holds" if check.holds else f"off by more than {check.tolerance:g}",
                )
                for check in checks
            ],
            right=("card", "measured"),
        )
    raise typer.Exit(0 if all(check.holds for check in checks) else 4)


def _eval_taught(path: Path, dataset: str, data: Path | None, split: str, device: str, json: bool) -> None:
    """The matrix of a taught model: each task's accuracy as it was after each task."""
    from zoo.tasks.teachable import evaluate_taught

    with out.progress("eval") as step:
        result = evaluate_taught(path, dataset, split=split, root=data, device=device, report=lambda done: step())
    if json:
        out.data(result.to_dict())
    else:
        out.rich(result)
    raise typer.Exit(out.Failures(result.failed).report(int(result.pictures.sum()) + len(result.failed)))


def _list_recipes() -> None:
    from zoo.train.recipe import headline, load_recipe, recipe_names

    rows = []
    for name in recipe_names():
        recipe = load_recipe(name)
        rows.append((name, recipe.model, recipe.data.name, str(recipe.schedule.epochs), headline(name)))
    out.table(
        ("recipe", "model", "data", "epochs", "what to expect"), rows, right=("epochs",), spare=("what to expect",)
    )


def _line(progress: "Progress") -> str:
    figures = "".join(f"  {key} {value:.4g}" for key, value in progress.figures.items())
    text = (
        f"epoch {progress.epoch}/{progress.epochs}  step {progress.step}/{progress.steps}  "
        f"loss {progress.loss:.4f}  {progress.rate:,.0f} images/s{figures}"
    )
    return f"{text}  {out.clock(progress.left)} left" if progress.left else text
