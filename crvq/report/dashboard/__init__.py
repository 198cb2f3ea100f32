"""One self-contained HTML page made from run records (``python -m crvq.report``).

The records are read (`runs`), shaped into plain data (`outcomes`, `sweeps`, `layer_maps`,
`finetune_curves`, `liveness`, `published_points`, joined by `payload`) and put into a page with
its own scripts and plotly.js (`page`). What is drawn is decided by the scripts in ``page/``.
"""

from crvq.report.dashboard.page import write_dashboard
from crvq.report.dashboard.watch import watch_dashboard

__all__ = ["watch_dashboard", "write_dashboard"]
