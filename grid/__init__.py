"""Many trials: sweeps in YAML, Ray Tune, the result store, MLflow and the `tta-grid` command.

Each folder imports only those before it::

    events      the words that they share: how cells end, who hears of it
    plan        from a sweep file to cells; a plan is a source of cells
    store       results on disk
    launch      the queue of cells, Ray Tune, progress
    track       MLflow, a listener of a launch
    search      sources of cells that choose by results (none yet)
    commands    puts them together
"""
