"""Dropout and its relatives: pure functions of key and call, and layers that count their calls."""

from anyoptim.layers._alpha import (
    AlphaDropout,
    FeatureAlphaDropout,
    alpha_dropout,
    alpha_dropout_gradient,
    feature_alpha_dropout,
)
from anyoptim.layers._dropout import (
    DropConnect,
    Dropout,
    DropPath,
    SpatialDropout,
    VariationalDropout,
    drop_path,
    dropout,
    spatial_dropout,
)
from anyoptim.layers._gaussian import GaussianDropout, gaussian_dropout
from anyoptim.layers._layer import Layer
from anyoptim.layers._zoneout import Zoneout, zoneout, zoneout_gradient

__all__ = [
    "AlphaDropout",
    "DropConnect",
    "DropPath",
    "Dropout",
    "FeatureAlphaDropout",
    "GaussianDropout",
    "Layer",
    "SpatialDropout",
    "VariationalDropout",
    "Zoneout",
    "alpha_dropout",
    "alpha_dropout_gradient",
    "drop_path",
    "dropout",
    "feature_alpha_dropout",
    "gaussian_dropout",
    "spatial_dropout",
    "zoneout",
    "zoneout_gradient",
]
