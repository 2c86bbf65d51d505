"""Train: a model with fresh weights learns to predict the next token of the shards.

Writes the weights that `train.keep` asks for to models/checkpoint, and the metrics of the run to results/train.
"""

from tiny_lm.model.registry import MODELS
from tiny_lm.runner.launch import launch
from tiny_lm.runner.stage import WORKER, Stage
from tiny_lm.training.params import TrainParams


def main(stage: Stage) -> None:
    model_params = stage.section("model", MODELS)
    params = stage.section("train", TrainParams)
    accumulate = params.micro_batches_per_device(stage.runtime.devices)
    if stage.runtime.launcher != "none" and not WORKER:
        launch(stage)
        return
    # Lightning's import takes seconds: wrong params are refused before it, and a launcher does without it.
    from tiny_lm.training.fit import fit

    fit(stage, model_params, params, accumulate)
