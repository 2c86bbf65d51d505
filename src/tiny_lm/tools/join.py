"""Join a training run that another machine started, as one of its nodes.

The first node prints the address. Run this in the same folder, which all nodes share. It ends when the run ends; exit
code 0 means that the run succeeded.
"""

from __future__ import annotations

from tiny_lm.runner.node import join
from tiny_lm.terminal import Parser


def main(argv: list[str]) -> None:
    parser = Parser("join", __doc__, "node1:20345")
    parser.add_argument("address", metavar="HOST:PORT", help="as the first node prints it")
    join(parser.parse_args(argv).address)
