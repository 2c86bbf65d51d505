"""Lightning's DDP, with gradients summed in a fixed order."""

from typing import cast

from pytorch_lightning.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from tiny_lm.training.tree import GradientTree, sum_over_devices


class FixedOrderDDP(DDPStrategy):
    """DDP whose gradients are summed by `sum_over_devices` with the module's `gradient_tree`.

    Buffers need no broadcast, because those of a model are functions of its params.
    """

    def __init__(self) -> None:
        super().__init__(gradient_as_bucket_view=True, broadcast_buffers=False)

    def _register_ddp_hooks(self) -> None:  # Lightning's own ignores hooks on a CPU
        assert self.lightning_module is not None
        tree = cast(GradientTree, self.lightning_module.gradient_tree)
        cast(DistributedDataParallel, self.model).register_comm_hook(tree, sum_over_devices)
