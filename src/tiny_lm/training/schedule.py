"""The schedule as a function of the step alone, so nothing of it has to be saved.

Linear warm-up, then one of: `cosine` (Loshchilov & Hutter 2017, one half period), `constant`, or `wsd`: warm-up,
stable, and a decay over the last part of the run (Hu et al. 2024, MiniCPM), which is linear, or 1 - √ for `wsd-sqrt`
(Hägele et al. 2024, arXiv 2405.18392).
"""

import math

from tiny_lm.training.params import TrainParams


def multiplier(step: int, params: TrainParams) -> float:
    """What learning rates are multiplied by at optimizer step `step`, 0 to steps - 1; 1 at the peak.

    Warm-up starts above 0 and leaves at least the last step. A decay starts at the peak and ends, at the last step, at
    min_learning_rate / learning_rate, even if its fraction of a short run rounds to no step at all. A run of one step
    is at the peak.
    """
    last = params.steps - 1
    warmup_steps = min(round(params.warmup * params.steps), last)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    decay = {"cosine": 1.0, "constant": 0.0}.get(params.schedule, params.decay)  # fraction of the steps
    if decay == 0 or last == 0:
        return 1.0
    start = min(max(warmup_steps, last - round(decay * params.steps)), last - 1)
    done = max(0.0, (step - start) / (last - start))  # 0 until the decay starts, 1 at the last step
    left = {
        "cosine": 0.5 * (1 + math.cos(math.pi * done)), "wsd": 1 - done, "wsd-sqrt": 1 - math.sqrt(done)
    }[params.schedule]  # fmt: skip
    minimum = params.min_learning_rate / params.learning_rate
    return minimum + (1 - minimum) * left
