"""HOW to train: networks, datasets, training, and the executors that run it here or on Ray.

    networks.py      architecture -> torch module
    datasets.py      named datasets and .npz files, as arrays; the split
    training.py      one candidate, start to end; ``python -m workers.training "STRING"``
    executors.py     the in-process executor
    ray_executor.py  the same on Ray actors; the only file that imports ray

Imports the search core and torch, never storage: workers return values, the coordinator writes.
"""
