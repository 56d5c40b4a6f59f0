"""For ``ray start``, with RAY_START_HOOK=workers.ray_start.without_client: no port for Ray Client.

``ray start --head`` opens port 10001, through which code is run, wherever grpcio is installed, and ray 2.60 has no
option against it. It calls the function that RAY_START_HOOK names before anything starts. Imports nothing: ``ray
start`` is to stay as fast as it is.
"""

from typing import Any


def without_client(settings: Any, _is_head: bool) -> None:
    """Start no server for Ray Client; ``settings`` are ray's RayParams."""
    settings.ray_client_server_port = None
