"""The licence of each installed package that corerec-bert4rec needs, from the packages' own metadata: `make licences`.

python scripts/licences.py [EXTRA ...]    of the library alone, or with the named extras; of all extras with `all`
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "corerec-bert4rec"


def licence_of(distribution: metadata.Distribution) -> str:
    """What a package says of its licence: the SPDX expression, else the classifiers, else the free text."""
    about = distribution.metadata
    if expression := about.get("License-Expression"):
        return expression
    classifiers = about.get_all("Classifier") or []
    named = [text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License :: ")]
    free_text = (about.get("License") or "").strip().splitlines()
    return " / ".join(name for name in named if name != "OSI Approved") or (free_text or ["not stated"])[0][:60]


def needed(project: str, extras: set[str]) -> dict[str, metadata.Distribution]:
    """The installed distributions that a project needs, directly or through others, by name."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [(project, frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        key = canonicalize_name(name), wanted
        if key in seen:
            continue
        seen.add(key)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[key[0]] = distribution
        waiting += [(need.name, frozenset(need.extras)) for need in _requirements(distribution, wanted)]
    del found[canonicalize_name(project)]
    return dict(sorted(found.items()))


def _requirements(distribution: metadata.Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    for line in distribution.requires or []:
        need = Requirement(line)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield need


def main(extras: list[str]) -> None:
    every = metadata.metadata(PROJECT).get_all("Provides-Extra") or []
    chosen = set(every) if extras == ["all"] else set(extras)
    if unknown := chosen - set(every):
        raise SystemExit(f"{PROJECT} has no extra {', '.join(sorted(unknown))}; it has {', '.join(every)}")
    for name, distribution in needed(PROJECT, chosen).items():
        print(f"{name:28} {distribution.version:18} {licence_of(distribution)}")


if __name__ == "__main__":
    main(sys.argv[1:])
