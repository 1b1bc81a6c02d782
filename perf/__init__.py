"""Measures hftransfer beside its peers: `python -m perf list`, `run`, `report`, `install`.

A *scenario* opens a *world* (servers and their payload); every *tool* that suits it runs in
turn as a process of its own, measured from outside and checked byte for byte. `README.md` here
says what is measured and how to read it.
"""
