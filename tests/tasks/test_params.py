import pytest

from tiny_lm.io.params import load_params
from tiny_lm.tasks.params import TasksParams


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": []}, "tasks.names = []: must be one name or more"),
        ({"names": ["blimp", "piqa", "blimp"]}, "must be different from each other"),
        ({"names": "blimp"}, "tasks.names = 'blimp': must be a list, such as [a, b]"),
        ({"limit": 0}, "tasks.limit = 0: must be at least 1, or null"),
        ({"batch_size": 0}, "tasks.batch_size = 0: must be between 1 and 65536"),
        ({"accelerator": "gpu"}, "tasks.accelerator = 'gpu': must be one of auto, cpu, cuda"),
        ({"threads": 0}, "tasks.threads = 0: must be between 1 and 1024"),
    ],
)
def test_a_bad_value_is_named(values, message):
    with pytest.raises(ValueError) as error:
        load_params("tasks", values, TasksParams)
    assert message in str(error.value)
