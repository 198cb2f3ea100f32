"""Figures (plotly) from frames of runs and layers."""

from crvq.report.figures.critical_map import critical_map_figure
from crvq.report.figures.layers import (
    critical_figure,
    loss_by_block_figure,
    loss_map_figure,
)
from crvq.report.figures.pareto import pareto_figure, pareto_models, pareto_protocols

__all__ = [
    "critical_figure",
    "critical_map_figure",
    "loss_by_block_figure",
    "loss_map_figure",
    "pareto_figure",
    "pareto_models",
    "pareto_protocols",
]
