"""One self-contained HTML page made from run records (``crvq report``).

`crvq.report.run_table` says what the rows are; here they are put next to the figures that the
notebooks use (`sections`), what the side panel shows of a run (`details`), and one file that
fetches nothing (`document`), written once or served while runs go on (`server`).
"""
