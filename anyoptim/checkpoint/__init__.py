"""Checkpoints: parameters, optimizers and layers in one file, whole or not at all."""

from anyoptim.checkpoint._checkpoint import Checkpoint, load, save

__all__ = ["Checkpoint", "load", "save"]
