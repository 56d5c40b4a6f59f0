"""HOW to train: networks, datasets, training, and the executors that run it here or on Ray.

    networks.py      architecture -> torch module
    datasets.py      named datasets and .npz files, as arrays; the split
    training.py      one candidate, start to end; ``python -m workers.training "STRING"``
    model_file.py    a trained network as weights, and as plain PyTorch that loads them
    executors.py     how many workers there are to be; the executor in this process
    ray_cluster.py   the Ray cluster that is started or joined; with the next the only files that import ray
    ray_executor.py  the executor on Ray actors
    deferred.py      what an executor is handed, so that torch is imported only where it trains

Imports the search core and torch, never storage: workers return values, the coordinator writes.
"""
