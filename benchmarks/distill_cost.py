"""Cost of PointDistiller's loss, against the plain form: ``python benchmarks/distill_cost.py [--threads 2]``.

One frame of 12,000 pillars, teacher 64 and student 32 channels, N 6000, K 128, graphs of 32 channels; forward and
backward, in float32. The plain form finds neighbours in one matrix of distances, gathers both groups, concatenates,
convolves (1x1), normalises, and subtracts. Both forms get the same pillars and the same weights; their losses are
printed, since a fast form that computes something else is worth nothing.

Every measurement has a process of its own, the forms by turns: the highest resident memory of a process (ru_maxrss)
never falls, so that a second form in the same process would hide behind the first. What the process held just before
the first step (Python, torch, features) is subtracted. Times are of later steps, when memory is warm.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pd_edge.training.distill import LocalDistillation, PointDistillerConfig, Rows, paper_weights

PILLARS, TEACHER, STUDENT = 12_000, 64, 32
CONFIG = PointDistillerConfig(pillars=6000, neighbours=128, width=32)


class Plain(nn.Module):
    """The loss as the paper writes it, with every tensor it names."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * channels, CONFIG.width, 1, bias=False), nn.BatchNorm2d(CONFIG.width), nn.ReLU())
            for channels in (TEACHER, STUDENT)
        )

    def take(self, from_: LocalDistillation) -> "Plain":
        """The same with the weights of the other form."""
        for graph, other in zip(self.graphs, (from_.teacher_graph, from_.student_graph), strict=True):
            graph.get_parameter("0.weight").data.copy_(other.linear.weight[:, :, None, None])
        return self

    def forward(self, rows: Rows) -> Tensor:
        """The loss."""
        top = rows.importance.topk(CONFIG.pillars)
        with torch.no_grad():
            distances = torch.cdist(rows.teacher[top.indices], rows.teacher)
            neighbours = distances.topk(CONFIG.neighbours, largest=False, sorted=False).indices
        weights = len(top.indices) * paper_weights(top.values, CONFIG.tau)
        teacher, student = (
            graph(grouped(features, top.indices, neighbours))
            for graph, features in zip(self.graphs, (rows.teacher, rows.student), strict=True)
        )
        loss: Tensor = 2 * (weights[:, None] * (teacher - student).square()).mean()
        return loss


def grouped(features: Tensor, centres: Tensor, neighbours: Tensor) -> Tensor:
    """Every edge's neighbour and centre features, (1, 2C, N, K)."""
    around = features[neighbours]
    centre = features[centres][:, None].expand_as(around)
    return torch.cat([around, centre], dim=2).permute(2, 0, 1)[None]


def frame() -> Rows:
    """Random features like a pillar net's output, not negative, and heavy-tailed point counts."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(PILLARS, TEACHER, generator=generator).relu()
    student = torch.randn(PILLARS, STUDENT, generator=generator).relu().requires_grad_()
    counts = 1 + (torch.rand(PILLARS, generator=generator).reciprocal() * 3).floor().clamp(max=400)
    counts += torch.rand(PILLARS, generator=generator) / 100  # no ties: both forms choose the same pillars
    cells = torch.arange(PILLARS)[:, None] % torch.tensor([110, 12_100])
    return Rows(teacher, student, counts, cells * 0.16, [PILLARS])


def highest() -> float:
    """The most memory this process has had [MiB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(form: str, repeats: int) -> dict[str, float]:
    """Milliseconds of a step (median), MiB that the steps needed at most, and the loss, of one form."""
    torch.manual_seed(0)
    fused = LocalDistillation(CONFIG, TEACHER, STUDENT)
    rows = frame()
    plain = Plain().take(fused)
    loss: Callable[[], Tensor] = (lambda: fused(rows)[0]) if form == "fused" else (lambda: plain(rows))
    warm = torch.ones(8, 8, requires_grad=True)
    torch.autograd.backward(
        (warm @ warm).sum()
    )  # loads the libraries and the threads, which are no cost of either form
    before, taken, value = highest(), [], torch.zeros(())
    for _ in range(repeats + 1):
        start = time.perf_counter()
        value = loss()
        torch.autograd.backward(value)
        taken.append(1e3 * (time.perf_counter() - start))
    return {"ms": statistics.median(taken[1:]), "MiB": highest() - before, "loss": value.item()}


def in_own_process(form: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Measures a form in a process of its own."""
    options = [f"--form={form}", f"--threads={arguments.threads}", f"--repeats={arguments.repeats}"]
    done = subprocess.run([sys.executable, __file__, *options], check=True, capture_output=True, text=True)  # noqa: S603
    return dict(json.loads(done.stdout))


def main() -> None:
    """Prints time and memory of both forms, and how many times less the fused one needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each form, by turns")
    parser.add_argument("--form", choices=("plain", "fused"), help="measures this form in this process, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.form:
        print(json.dumps(measure(arguments.form, arguments.repeats)))
        return
    found: dict[str, list[dict[str, float]]] = {"plain": [], "fused": []}
    for _ in range(arguments.rounds):
        for form, each in found.items():
            each.append(in_own_process(form, arguments))
    print(f"{'':6} {'ms':>8} {'MiB':>8} {'loss':>10}   median of {arguments.rounds} processes")
    middle = {
        form: {key: statistics.median(one[key] for one in each) for key in each[0]} for form, each in found.items()
    }
    for form, one in middle.items():
        print(f"{form:6} {one['ms']:8.0f} {one['MiB']:8.0f} {one['loss']:10.6f}")
    time_ratio, memory_ratio = (middle["plain"][key] / middle["fused"][key] for key in ("ms", "MiB"))
    print(f"{'ratio':6} {time_ratio:8.1f} {memory_ratio:8.1f}")


if __name__ == "__main__":
    main()
