"""Detectors trained elsewhere, made into model folders."""
