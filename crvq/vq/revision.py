"""The revision of the shared solver: part of a run's identity."""

from __future__ import annotations

SOLVER_REVISION = 3
"""Raise by one when results of the shared solver change for the same parameters and seed.

The shared solver is everything that the alternation of additive codes runs: k-means, codebook and
scale solves, code search, and storage rounding. Revision 2 starts codebooks from k-means weighted
by ``1 / diag(H⁻¹)``; results of revision 1 are not comparable with it.
"""
