"""Learning-rate schedules as pure functions of the step: step in, rate out, nothing to save for a resumed run.

Linear warm-up, then one of: `cosine` (Loshchilov & Hutter 2017, one half period), `constant`, or `wsd`: warm-up,
stable, and a linear decay over the last part of the run (Hu et al. 2024, MiniCPM).
"""

import math

from tiny_lm.training.params import TrainParams


def learning_rate(step: int, params: TrainParams) -> float:
    """The learning rate of optimizer step `step`, 0 to steps - 1. A decay ends at the minimum."""
    peak, minimum, steps = params.learning_rate, params.min_learning_rate, params.steps
    warmup_steps = round(params.warmup * steps)
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if params.schedule == "constant":
        return peak
    start = warmup_steps if params.schedule == "cosine" else max(warmup_steps, steps - 1 - round(params.decay * steps))
    done = min(1.0, max(0.0, (step - start) / max(1, steps - 1 - start)))  # 0 before the decay, 1 at the last step
    share = 0.5 * (1 + math.cos(math.pi * done)) if params.schedule == "cosine" else 1 - done
    return minimum + (peak - minimum) * share
