"""spconv's CUDA kernels at work on our rulebooks and weights, for training on a GPU.

spconv's native convolution is called as a function: it takes features, filters and a list of pairs per place of the
kernel, all of which are here already. So the sites keep their order, the state dict its names and shapes, and a run
goes on where there is no spconv. Pairs are listed by ascending site; spconv's own lists, which threads on a GPU append
to, come in another order each time. Still, a repeated run may differ in last digits: per process spconv times its
kernels and takes the fastest, and has no way to ask for a certain one.

Sums are float32, or float16 under float16 autocast. spconv knows no bfloat16 and, left to itself, would put float16 in
its place, in which gradients vanish without a loss scale; here bfloat16 rows are multiplied in float32.

Checked on a CPU with spconv 2.3.8: values and gradients by a wheel for CUDA (``spconv-cu126``), values by the one for
CPUs alone, which has no gradients, as it asks for a CUDA stream on the way back. The CUDA kernels themselves have not
run here, nor has their speed been measured; the tests of their values and gradients are marked ``gpu``. spconv's masked
implicit products, its default, have no CPU form to check against and are not used.

Source: https://github.com/traveller59/spconv, functional and ops of 2.3.8.
"""

import functools
import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pd_edge.training.sparse_conv import Convolution, Rules

_log = logging.getLogger(__name__)


class Pairs(NamedTuple):
    """A rulebook as spconv's native convolution reads it.

    Attributes:
        rows: (2, K, V') int32, rows of inputs and of the outputs that have them, side by side for each place of the
            kernel, by ascending output; -1 after the last.
        counts: (K,) int32, number of pairs at each place; 0 from a submanifold kernel's centre on, as spconv takes the
            centre for granted and the rest for the first half's mirror image.
        submanifold: Whether inputs and outputs are the same sites.
    """

    rows: Tensor
    counts: Tensor
    submanifold: bool

    @classmethod
    def of(cls, rules: Rules, inputs: int) -> "Pairs":
        """The pairs of a rulebook with so many input sites."""
        met = (rules.neighbours < inputs).T
        places, outputs = met.nonzero(as_tuple=True)
        columns = met.cumsum(1)[places, outputs] - 1
        rows = rules.neighbours.new_full((2, *met.shape), -1)
        rows[0, places, columns] = rules.neighbours[outputs, places]
        rows[1, places, columns] = outputs.int()
        counts = met.sum(1, dtype=torch.int32)
        if rules.reached is None:
            counts[len(counts) // 2 :] = 0
        return cls(rows, counts, rules.reached is None)

    def convolve(self, features: Tensor, weight: Tensor) -> Tensor:
        """Features (V, C) of the input sites and a weight (K, C, C') of the same type to (V', C') of that type."""
        from spconv.pytorch import ConvAlgo, functional  # noqa: PLC0415 - an extra

        function = functional.indice_subm_conv if self.submanifold else functional.indice_conv
        dtype = torch.float32 if features.dtype == torch.bfloat16 else features.dtype
        filters = weight.permute(2, 0, 1).to(dtype).contiguous()
        with torch.autocast(features.device.type, enabled=False):  # under it, spconv casts to float16
            rows: Tensor = function(
                features.to(dtype), filters, self.rows, self.counts, self.rows.shape[2], ConvAlgo.Native
            )
        return rows.to(features.dtype)


def fastest(rulebooks: Sequence[Rules], features: Tensor) -> Sequence[Convolution]:
    """The distinct rulebooks of a network, each over the outputs of the one before, as spconv's pairs where that helps.

    That is on a GPU with spconv; but not for float64, which its kernels lack, nor where a layer has no sites, on which
    they fail.

    Args:
        rulebooks: The rulebooks.
        features: (V, C) of the first one's input sites.
    """
    if not features.is_cuda or features.dtype == torch.float64:
        return rulebooks
    counts = [len(each.neighbours) for each in rulebooks]
    if 0 in counts or obstacle() is not None:
        return rulebooks
    return [Pairs.of(*each) for each in zip(rulebooks, [len(features), *counts], strict=False)]


@functools.cache
def obstacle() -> str | None:
    """Why spconv cannot be used on a GPU here, None if it can; logs the answer when first asked."""
    try:
        import spconv.pytorch  # noqa: PLC0415 - an extra
        from spconv.cppconstants import CPU_ONLY_BUILD  # noqa: PLC0415

        found = "this spconv is built for CPUs alone" if CPU_ONLY_BUILD else None
    except ImportError as error:
        found = f"spconv cannot be imported ({error}); a wheel for CUDA comes with: pip install 'pd-edge[spconv]'"
    by = "torch: " + found if found else f"spconv {spconv.__version__}"
    _log.info("sparse convolutions on the GPU by %s", by)
    return found
