"""Hosts on one machine: each a set of Linux namespaces, with an address in a network that they share and nobody else.

A host has its own network, processes, name, /tmp (home included) and shared memory; the machine's other files it sees.
It is a process that holds the namespaces, and all in it ends when that process or this one does, however it ends.
Nothing of the machine's own network is touched, and nothing is left. Needs root, iproute2 and util-linux.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NETWORK = "10.77.0"  # of the hosts; /24
HOME = "/tmp/home"
BLACK_HOLE = "192.0.2.1"  # RFC 5737: sent to the gateway, which lets it fall
TOOLS = ("ip", "unshare", "nsenter", "setpriv", "mount")

# Of a name, this checkout, where packages are installed, and "bare" or not. Both folders may lie below /tmp, and the
# second one in the first: they stay to be seen, the checkout to be read only; on a bare host it is empty.
HOLD = f"""set -e
hostname "$1"
exec 3<"$2" 4<"$3"
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
mkdir -p {HOME} "$2"
if [ "$4" = bare ]
then mount -t tmpfs tmpfs "$2"
else mount --no-canonicalize --bind /proc/self/fd/3 "$2"
fi
mkdir -p "$3"
mount --no-canonicalize --bind /proc/self/fd/4 "$3"
mount -o remount,bind,ro "$2"
exec 3<&- 4<&- 2>/dev/null
ip link set lo up
echo ready
while :; do sleep infinity & wait; done
"""


@dataclass(frozen=True)
class Host:
    """One of them."""

    name: str
    address: str
    holder: int  # process id, as seen from outside, of the first process in its namespaces

    def start(self, *command: str, env: Mapping[str, str] | None = None, **how: object) -> "subprocess.Popen[str]":
        """Start a command there, with nothing of this process's environment; text goes in and out."""
        full = {
            "HOME": HOME,
            "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(ROOT),
        }
        enter = [
            "nsenter",
            f"--target={self.holder}",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "env",
            f"--chdir={HOME}",
        ]
        return subprocess.Popen([*enter, *command], env={**full, **(env or {})}, text=True, **how)  # type: ignore[call-overload, no-any-return]

    def run(self, *command: str, env: Mapping[str, str] | None = None, timeout_s: float = 120.0) -> "Said":
        """Run a command there to its end; one that takes longer is killed, and has the code 124."""
        process = self.start(
            *command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            kill(process)
            out, err = process.communicate()
            return Said(124, out, err)
        return Said(process.returncode, out, err)

    def write(self, path: str, text: str) -> None:
        """Write a file there that only its owner can read."""
        script = 'umask 077; mkdir -p "$(dirname "$0")"; cat >"$0"'
        process = self.start("sh", "-c", script, path, stdin=subprocess.PIPE)
        process.communicate(text)


@dataclass(frozen=True)
class Said:
    """What came of a command."""

    code: int
    out: str
    err: str


def kill(process: "subprocess.Popen[str]", signal_name: str = "KILL") -> None:
    """Send a signal to a command that ``Host.start`` has started: nsenter, its parent, passes none on."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        subprocess.run(["kill", f"-{signal_name}", child], check=False)


class Network:
    """Hosts at a switch, by name."""

    def __init__(self, switch: Host, hosts: Mapping[str, Host]) -> None:
        self._switch, self.hosts = switch, hosts

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def cut(self, name: str) -> None:
        """Pull a host's cable out: what is sent to it, or by it, is lost."""
        _tool(self._switch, "ip", "link", "set", name, "down")

    def mend(self, name: str) -> None:
        """Put it back."""
        _tool(self._switch, "ip", "link", "set", name, "up")

    def received(self, name: str) -> int:
        """Bytes that a host has received so far."""
        shown = json.loads(self[name].run("ip", "-statistics", "-json", "link", "show", "eth0").out)
        return int(shown[0]["stats64"]["rx"]["bytes"])


@contextmanager
def network(names: Sequence[str], bare: Collection[str] = ()) -> Iterator[Network]:
    """Hosts of these names, which know each other by them; the bare ones have all installed packages but this one."""
    with ExitStack() as stack:
        switch = stack.enter_context(_host("switch", f"{NETWORK}.254"))
        _tool(switch, "ip", "link", "add", "bridge", "type", "bridge")
        _tool(switch, "ip", "address", "add", f"{switch.address}/24", "dev", "bridge")
        _tool(switch, "ip", "link", "set", "bridge", "up")
        hosts = {n: stack.enter_context(_host(n, f"{NETWORK}.{i}", is_bare=n in bare)) for i, n in enumerate(names, 1)}
        known = "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in hosts.values())
        for host in hosts.values():
            end = ["peer", "name", "eth0", "netns", f"/proc/{host.holder}/ns/net"]
            subprocess.run(
                ["nsenter", f"--target={switch.holder}", "--net", "ip", "link", "add", host.name, "type", "veth", *end],
                check=True,
            )
            _tool(switch, "ip", "link", "set", host.name, "master", "bridge", "up")
            _tool(host, "ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            _tool(host, "ip", "link", "set", "eth0", "up")
            _tool(host, "ip", "route", "add", "default", "via", switch.address)
            host.write("/tmp/hosts", known)
            _tool(host, "chmod", "644", "/tmp/hosts")
            _tool(host, "mount", "--bind", "/tmp/hosts", "/etc/hosts")
            _tool(host, "mount", "--bind", "/dev/null", "/etc/resolv.conf")  # else gRPC waits for the machine's server
        yield Network(switch, hosts)


@contextmanager
def _host(name: str, address: str, *, is_bare: bool = False) -> Iterator[Host]:
    """The namespaces, not yet in a network."""
    ends_with_this = ["setpriv", "--pdeathsig=KILL"]
    spaces = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with subprocess.Popen(
        [*ends_with_this, *spaces, "bash", "-c", HOLD, "hold", name, str(ROOT), sys.prefix, "bare" if is_bare else ""],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,  # a Ctrl-C is for this process, which still has something to ask of the hosts
    ) as holder:
        try:
            assert holder.stdout
            if holder.stdout.readline() != "ready\n":
                raise OSError(f"no namespaces for the host {name}: see above; containers need CAP_SYS_ADMIN for it")
            children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
            yield Host(name, address, int(children[0]))
        finally:
            holder.kill()


def _tool(host: Host, *command: str) -> None:
    said = host.run(*command)
    if said.code:
        raise OSError(f"{host.name}: {' '.join(command)}: {said.err.strip()}")


def lacking() -> str | None:
    """Why there can be no hosts here, if so."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root, for network namespaces: sudo -E make hosts"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(missing)}: apt-get install iproute2 util-linux" if missing else None
