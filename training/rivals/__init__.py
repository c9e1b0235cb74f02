"""Distillation methods that PointDistiller is compared with, one module each."""
