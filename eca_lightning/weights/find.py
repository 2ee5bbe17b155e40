"""Find the network among all that a file of weights holds."""

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

from torch import Tensor

from eca_lightning.backbones.network import backbone_names, outline

Kind = Literal["ema", "raw"]
"""Which weights to take from a file with both: their moving averages or the trained ones."""

OF_TASK = "backbone."
"""Prefix of the network within an ImageClassifier."""

_AVERAGED = re.compile(r"(^|[./_])(ema|swa|averaged?|teacher)([./_]|$)")
_TRAINED_BESIDE_AVERAGED = "current_model_state"  # of Lightning, whose state_dict is the average
_OWN_PLACES = ("", "state_dict", _TRAINED_BESIDE_AVERAGED)
_ONLY_FOR_A_LOSS = "encoder_k."  # MoCo's copy of its network, encoder_q
_KEYS = 12  # more than a block has in common with a whole network
_SHOWN = 3


class Found(NamedTuple):
    """The weights of a network by its own keys, and what to say of how they were found."""

    tensors: dict[str, Tensor]
    notes: list[str]
    outside: list[str]


def find_network(content: Mapping[str, Any], kind: Kind | None, is_own: bool) -> Found:
    """Find the weights of the one network in a file, in a state dict at any depth.

    The prefix that the keys of the network have in common is removed, and what does not have it is
    left out. Of moving averages and trained weights the averages are taken by default, as by timm.

    Args:
        content: What the file holds.
        kind: Which weights to take, if there are both.
        is_own: Whether it is a checkpoint of this package.

    Raises:
        ValueError: If there is no network, or more than one.
    """
    states = _state_dicts(content)
    if is_own:
        states = {place: state for place, state in states.items() if place in _OWN_PLACES}
    networks = {
        f"{place}/{prefix}".strip("/"): (state, prefix)
        for place, state in states.items()
        for prefix in (_own_prefix(state) if is_own else _prefixes(state))
    }
    if states and not networks:  # none of this package, which its user will say
        place, state = max(states.items(), key=lambda item: len(item[1]))
        networks = {place: (state, "")}
    if not networks:
        raise ValueError("holds no weights: give a checkpoint or a state dict of a network")
    averages = _TRAINED_BESIDE_AVERAGED in states
    by_kind: dict[str, list[str]] = {"ema": [], "raw": []}
    for label in networks:
        is_average = _AVERAGED.search(label) or (averages and label.startswith("state_dict"))
        by_kind["ema" if is_average else "raw"].append(label)
    taken = kind or ("ema" if by_kind["ema"] else "raw")
    other = "raw" if taken == "ema" else "ema"
    if len(by_kind[taken]) != 1:
        what = f"several networks ({', '.join(networks)}): save one of them alone"
        if not by_kind[taken]:
            what = f"no {taken} weights, only {other} ones: leave out --weights"
        raise ValueError(f"holds {what}")
    label = by_kind[taken][0]
    state, prefix = networks[label]
    outside = [key for key in state if not key.startswith(prefix)]
    notes = [f"those of {label}"] if label and not is_own else []
    if by_kind[other]:
        notes = [
            f"{taken}, of {label}; {other}, of {by_kind[other][0]}, by import --weights {other}"
        ]
    if outside and not is_own:
        shown = ", ".join(outside[:_SHOWN]) + ", ..." * (len(outside) > _SHOWN)
        notes.append(f"{len(outside)} outside {prefix} left out ({shown})")
    tensors = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return Found(tensors, notes, outside)


def _state_dicts(content: Mapping[Any, Any]) -> dict[str, dict[str, Tensor]]:
    """Find the dicts, nested or not, that hold tensors by keys with a dot, as modules' have."""
    places: list[tuple[str, Mapping[Any, Any]]] = [("", content)]
    seen, states = set(), {}
    for place, mapping in places:  # which grows; a file's dicts may hold themselves
        seen.add(id(mapping))
        tensors = {k: v for k, v in mapping.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if any("." in key for key in tensors):
            states[place] = tensors
        for key, value in mapping.items():
            if isinstance(value, Mapping) and id(value) not in seen:
                places.append((f"{place}/{key}".strip("/"), value))
    return states


def _own_prefix(tensors: Mapping[str, Tensor]) -> list[str]:
    return [OF_TASK if any(key.startswith(OF_TASK) for key in tensors) else ""]


def _prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """List the prefixes after which the keys are those of a network."""
    count: Counter[str] = Counter()
    for key in tensors:
        parts = key.split(".")
        for index in range(len(parts)):
            if ".".join(parts[index:]) in _known_keys():
                count[".".join([*parts[:index], ""])] += 1
    found = [prefix for prefix, keys in count.items() if keys > _KEYS]
    trained = [prefix for prefix in found if not prefix.endswith(_ONLY_FOR_A_LOSS)]
    return trained or found


@cache
def _known_keys() -> frozenset[str]:
    return frozenset().union(*(outline(name).shapes for name in backbone_names()))
