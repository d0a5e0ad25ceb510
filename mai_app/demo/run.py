"""`mai demo`: generate simulated images, train the baseline, evaluate it, and predict files that were held out."""

import sys

from mai_app.config import DemoConfig, EvaluateConfig, from_recipe
from mai_app.core.log import say
from mai_app.demo.images import make_demo
from mai_app.evaluation.evaluate import evaluate
from mai_app.evaluation.report import text_tables
from mai_app.images.find import find_images
from mai_app.inference.detector import load
from mai_app.inference.prediction import write_rows
from mai_app.training.loop import train

WARNING = (
    "These images are simulated: rendered scenes that passed once through a simulated camera and once through a "
    "simulated generator.\nThe figures show that the software works. They say nothing about real images."
)


def demo(config: DemoConfig) -> None:
    """Run the demo into config.out; run again, it carries on where it stopped or shows what is done."""
    say(WARNING)
    data = config.out / "data"
    make_demo(data, config.scenes, config.seed)
    runs = config.out / "runs"
    run = train(
        from_recipe(
            "baseline",
            data,
            name=f"demo-{config.scenes}-{config.seed}",
            epochs=config.epochs,
            learning_rate=config.learning_rate,
            seed=config.seed,
            runs=runs,
            prepared=config.out / "prepared",
        )
    )
    report = evaluate(EvaluateConfig(data=data, model=str(run), runs=runs), note=WARNING)
    sys.stdout.write(text_tables(report) + "\n\nFiles kept apart from training, as `mai predict` judges them:\n")
    apart = find_images([str(data / "apart")])
    for _ in write_rows(load(run).predict(apart), "table", sys.stdout, lambda: run.name):
        pass
    sys.stdout.write(
        f"\nreport: {report['folder']}/report.html\nmodel: {run} (mai predict --model {run} FILE …)\n{WARNING}\n"
    )
