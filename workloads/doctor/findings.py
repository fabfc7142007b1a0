"""What doctor's observations come to: a line each, and what to do where something is wrong."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from typing import Literal

from cluster.fingerprint import fingerprint
from workloads.doctor.network import Reach
from workloads.doctor.node import ENGINES, Node, NodeFacts, StorageFacts

Level = Literal["ok", "warning", "failed"]

_GIB, _MB = 2**30, 10**6
_SKEW_WARNING_S, _SKEW_FAILED_S = 0.5, 5.0
_SLOW_STORAGE = 50 * _MB
_LITTLE_DISK = 10 * _GIB
_BUSY_GPU_SHARE = 0.1
_HOT_C = 90


@dataclass(frozen=True)
class Finding:
    """One line of doctor's report."""

    level: Level
    what: str
    """What was looked at."""
    message: str
    remedy: str | None = None


def resources(nodes: Sequence[Node]) -> Finding:
    """What there is to compute with."""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    text = (
        f"{len(nodes)} node{'s' * (len(nodes) != 1)}, {cpus:g} CPUs, {gpus:g} GPUs, "
        f"{sum(node.memory_bytes for node in nodes) / _GIB:.1f} GiB of memory, "
        f"{sum(node.objects_bytes for node in nodes) / _GIB:.1f} GiB for objects"
    )
    if not cpus:
        return Finding(
            "failed", "resources", f"{text}: nothing can compute", "start worker nodes with CPUs"
        )
    return Finding("ok", "resources", text)


def versions(nodes: Sequence[Node], told: Mapping[str, NodeFacts]) -> Finding:
    """Whether all nodes have the libraries that raysmith wants, and the same ones."""
    wrong = []
    wanted = _wanted()
    names = {node.id: node.address for node in nodes}
    for node, facts in told.items():
        for library, specifier in wanted.items():
            have = facts.versions.get(library)
            if have is None and library != "vllm":
                wrong.append(f"{library} is absent on {names[node]}")
            elif have and not _fits(have, specifier):
                wrong.append(f"{library} {have} on {names[node]} is not {specifier}")
    for library in (*ENGINES, "python"):
        found = {_version(facts, library) for facts in told.values()} - {None}
        if len(found) > 1:
            wrong.append(f"nodes differ in {library}: {', '.join(sorted(map(str, found)))}")
    if wrong:
        return Finding(
            "failed", "versions", "; ".join(wrong), "use one image, or one lock file, for all nodes"
        )
    some = next(iter(told.values()), None)
    shown = ", ".join(f"{n} {v}" for n, v in (some.versions if some else {}).items())
    python = some.python if some else platform.python_version()
    return Finding("ok", "versions", f"python {python}, {shown}, as wanted, on all nodes")


def code(nodes: Sequence[Node], told: Mapping[str, NodeFacts]) -> Finding:
    """Whether all nodes have the code of this process."""
    own = fingerprint()
    names = {node.id: node.address for node in nodes}
    others = [
        f"{(facts.installed_code or facts.code)[:12]} on {names[node]}"
        for node, facts in told.items()
        if own not in (facts.installed_code, None if facts.installed_code else facts.code)
    ]
    if others:
        return Finding(
            "failed",
            "code",
            f"raysmith is {own[:12]} here, and {', '.join(others)}",
            "install one version on all machines, or run with --ship-code",
        )
    return Finding("ok", "code", f"raysmith {own[:12]} on all nodes")


def clocks(nodes: Sequence[Node], offsets: Mapping[str, float]) -> Finding:
    """How far the nodes' clocks are from this process's. Times of records and leases need them."""
    worst = max(offsets.items(), key=lambda item: abs(item[1]), default=("", 0.0))
    address = next((node.address for node in nodes if node.id == worst[0]), "")
    text = f"at most {abs(worst[1]) * 1000:.0f} ms apart"
    if abs(worst[1]) < _SKEW_WARNING_S:
        return Finding("ok", "clocks", text)
    level: Level = "failed" if abs(worst[1]) >= _SKEW_FAILED_S else "warning"
    way = "ahead" if worst[1] > 0 else "behind"
    return Finding(
        level, "clocks", f"{text}: {address} is {way}", "run chrony or ntpd on all nodes"
    )


def room(told: Mapping[str, NodeFacts]) -> Finding:
    """Shared memory and disk for what Ray keeps on nodes."""
    least_disk = min((facts.free_disk_bytes for facts in told.values()), default=0)
    least_shared = min((facts.shared_memory_bytes for facts in told.values()), default=0)
    text = (
        f"at least {least_shared / _GIB:.1f} GiB of /dev/shm, {least_disk / _GIB:.1f} GiB of disk "
        "free for temporary files"
    )
    if least_disk < _LITTLE_DISK:
        return Finding("warning", "room", text, "free disk on the nodes, or start Ray elsewhere")
    return Finding("ok", "room", text)


def gpus(nodes: Sequence[Node], told: Mapping[str, NodeFacts]) -> Iterator[Finding]:
    """Whether GPUs are well and free, for the nodes that have some."""
    wrong = []
    count: Counter[str] = Counter()
    for node in nodes:
        facts = told.get(node.id)
        if not facts or not node.gpus:
            continue
        if facts.gpu_error:
            wrong.append(f"{node.address}: {facts.gpu_error}")
        if len(facts.gpus) < node.gpus:
            wrong.append(
                f"{node.address}: Ray counts {node.gpus:g} GPUs, there are {len(facts.gpus)}"
            )
        for gpu in facts.gpus:
            count[gpu.name] += 1
            where = f"{node.address} GPU {gpu.index}"
            if gpu.uncorrected_errors:
                wrong.append(f"{where}: {gpu.uncorrected_errors} uncorrected memory errors")
            if gpu.used_mib > _BUSY_GPU_SHARE * gpu.memory_mib:
                wrong.append(f"{where}: {gpu.used_mib} of {gpu.memory_mib} MiB are taken")
            if gpu.temperature_c and gpu.temperature_c >= _HOT_C:
                wrong.append(f"{where}: {gpu.temperature_c} degrees")
    if wrong:
        yield Finding(
            "failed", "GPUs", "; ".join(wrong), "drain these nodes, or end what holds their GPUs"
        )
    elif count:
        shown = ", ".join(f"{number} x {name}" for name, number in count.items())
        yield Finding("ok", "GPUs", f"{shown}: free, no memory errors")


def storage(
    root: str,
    nodes: Sequence[Node],
    written: Mapping[str, StorageFacts | str],
    seen: Mapping[str, tuple[str, ...] | str],
) -> Iterator[Finding]:
    """Whether every node writes and reads the storage, sees what others wrote, and how fast."""
    wrong: list[str] = []
    blind: list[str] = []
    well: list[StorageFacts] = []
    for node in nodes:
        facts = written[node.id]
        if isinstance(facts, str) or facts.error:
            wrong.append(f"{node.address}: {facts if isinstance(facts, str) else facts.error}")
            continue
        well.append(facts)
        blind += _blind(node, nodes, seen)
    if wrong:
        yield Finding(
            "failed", "storage", f"{root}: {'; '.join(wrong)}",
            "name storage that every node can write: --storage, or the profile's",
        )  # fmt: skip
    if blind:
        yield Finding(
            "failed", "storage", f"{root} is not one folder for all nodes: {'; '.join(blind)}",
            "mount one network file system on every node at the same place",
        )  # fmt: skip
    if well:
        yield from _speed(root, well, is_whole=not wrong and not blind)


def copies(root: str, nodes: Sequence[Node], seen: Mapping[str, tuple[str, ...] | str]) -> Finding:
    """Whether all nodes have the working copies of runs in S3 on one folder."""
    blind = [text for node in nodes for text in _blind(node, nodes, seen)]
    if not blind:
        return Finding("ok", "working copies", f"all nodes have those of {root} on one folder")
    return Finding(
        "warning", "working copies",
        f"those of {root} are not on one folder for all nodes: {'; '.join(blind)}",
        "a stage on several nodes needs that: put them on a network file system, with the same "
        "XDG_CACHE_HOME for all nodes",
    )  # fmt: skip


def _blind(
    node: Node, nodes: Sequence[Node], seen: Mapping[str, tuple[str, ...] | str]
) -> list[str]:
    """What a node does not see of the marks that all nodes left, in words."""
    marks = seen.get(node.id, ())
    missing = len(nodes) - len(marks) if not isinstance(marks, str) else len(nodes)
    if not missing:
        return []
    return [f"{node.address} does not see what {missing} of {len(nodes)} nodes wrote"]


def _speed(root: str, well: Sequence[StorageFacts], *, is_whole: bool) -> Iterator[Finding]:
    write = min(facts.write_bytes_per_s for facts in well)
    read = min(facts.read_bytes_per_s for facts in well)
    text = f"{root}: writes at least {write / _MB:.0f} MB/s, reads {read / _MB:.0f} MB/s"
    if write < _SLOW_STORAGE:
        yield Finding("warning", "storage", text, "checkpoints will take long: see the network")
    elif is_whole:
        yield Finding("ok", "storage", f"{text}, and every node sees what the others write")
    lacks = _lacks(well)
    if lacks:
        yield Finding(
            "warning", "storage",
            f"no conditional writes: {' and '.join(lacks)}. Single writer: two drivers of one run "
            "are not told apart",
            "see to it that one driver runs at a time, or use storage with conditional writes",
        )  # fmt: skip
    elif is_whole:
        yield Finding(
            "ok", "storage",
            "conditional writes: of two writers that create or replace one object, one is told no",
        )  # fmt: skip


def _lacks(well: Sequence[StorageFacts]) -> list[str]:
    lacks = []
    if not all(facts.abilities.create_exclusive for facts in well):
        lacks.append("two writers that create one object are both told that they did")
    if not all(facts.abilities.compare_and_swap for facts in well):
        lacks.append("two that replace one object may both be told that they did")
    return lacks


def network(backend: str, members: Sequence[Node], reached: Mapping[str, Reach | str]) -> Finding:
    """Whether processes of all nodes can sum a tensor together."""
    wrong, sums = [], []
    for node in members:
        reach = reached.get(node.id, "was not asked")
        if isinstance(reach, str) or reach.error:
            wrong.append(f"{node.address}: {reach if isinstance(reach, str) else reach.error}")
        else:
            sums.append(reach)
    if wrong:
        return Finding(
            "failed", backend, "; ".join(wrong),
            "open all ports between nodes; name the interface that they share: GLOO_SOCKET_IFNAME, "
            "NCCL_SOCKET_IFNAME",
        )  # fmt: skip
    slowest = max(sums, key=lambda reach: reach.seconds)
    one = len(members) == 1
    return Finding(
        "ok", backend,
        f"{len(members)} node{'' if one else 's'} sum 16 MiB in {slowest.seconds * 1000:.0f} ms"
        + (" (one node: nothing crossed a network)" if one else ""),
    )  # fmt: skip


def _wanted() -> dict[str, str]:
    """What our package asks of each engine: `torch` to `~=2.13.0`."""
    try:
        asked = requires("raysmith") or []
    except PackageNotFoundError:
        return {}
    found = {}
    for text in asked:
        requirement = _parsed(text)
        name = requirement[0].removesuffix("-cpu")
        if name in ENGINES and requirement[1]:
            found[name] = requirement[1]
    return found


def _parsed(text: str) -> tuple[str, str]:
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    return requirement.name, str(requirement.specifier)


def _fits(have: str, specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(have, prereleases=True)


def _version(facts: NodeFacts, library: str) -> str | None:
    return facts.python if library == "python" else facts.versions.get(library)
