"""Benchmarks of hftransfer and its peers: ``python -m perf COMMAND``.

A *scenario* opens a *testbed*: servers and the data set that they serve. Every *tool* of the
scenario runs against it in turn, as a separate process, which is measured from outside. The
output of each run is compared with the data set byte for byte. `perf/README.md` describes the
method and the columns of the tables.

Packages, from the bottom up; each imports only from those before it::

    model      what a command, a run, a tool, a testbed and a scenario are
    report     results as JSON, tables, Markdown and charts
    run        processes, working directories, data sets, environments, the runner
    fixtures   testbeds: Hub, S3, Metaflow, Xet, nginx
    tools      how each measured program is found and started
    scenarios  the scenarios, as data
    ablation   hftransfer with one adaptive controller switched off
    cli        the command line

The scripts in `clients/` run in other interpreters and import nothing from here.
"""
