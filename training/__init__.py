"""Training, distillation and their data; needs the `train` extra."""
