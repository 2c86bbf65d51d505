"""The architectures that can be exported."""

from tiny_lm.export.gpt2 import GPT2
from tiny_lm.export.llama3 import LLAMA3
from tiny_lm.export.qwen3 import QWEN3
from tiny_lm.export.table import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": GPT2,
    "llama3": LLAMA3,
    "qwen3": QWEN3,
}
