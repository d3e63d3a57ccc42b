"""Proximal steps: what a penalty does to the parameter after its step, with the learning rate of that step."""

from anyoptim.stages.prox._arrays import L21, Nuclear, Simplex
from anyoptim.stages.prox._elements import L1, L2, ElasticNet
from anyoptim.stages.prox._operator import Operator

__all__ = ["L1", "L2", "L21", "ElasticNet", "Nuclear", "Operator", "Simplex"]
