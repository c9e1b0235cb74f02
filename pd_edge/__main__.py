"""``python -m pd_edge``, which is also how ``torchrun`` starts a training run."""

from pd_edge.cli import main

main()
