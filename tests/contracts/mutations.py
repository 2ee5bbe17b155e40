"""Mutate files that programs exchange: by their structure, and by their bytes."""

import copy
import io
import json
import math
import struct
import zipfile

import torch
import yaml
from torch import Tensor

PATHS = [
    *("../precious/notes.txt", "../precious/best.ckpt", "../precious", "~/notes.txt", "local://.."),
    *("runs/run/version_0/checkpoints/../../../../../precious/best.ckpt", "/proc/self/mem", "."),
]
VALUES = [
    *(None, True, False, -1, 0, 1, 2, 7, 2**31, 2**63, 10**30, -(10**9), 0.5, -0.5, 1e-320, 1e308),
    *(math.nan, math.inf, -math.inf, "", " ", "NaN", "null", "0", "os.system", "x" * 100_000),
    *("\x00", "\u202e\u00e9\n", "[", "{}", "../..", "a.b.c", [], {}, [[]], [None], {"": None}),
    *({"class_path": "os.system", "init_args": {"command": "touch ../precious/sprung"}},),
    *(list(range(1000)), [1, "a", None], {"a": {"b": {"c": 1}}}, "${oc.env:HOME}", "!!python/none"),
]
DEPTH = 60  # what writes these files goes no deeper; text does


def nested(kind):
    """A value that is nested deeply."""
    value = 1
    for _ in range(DEPTH):
        value = [value] if kind is list else {"a": value}
    return value


def sites(value):
    """All places in nested lists and dicts, as pairs of container and key."""
    found, containers = [], [value]
    while containers:
        container = containers.pop()
        keys = container if isinstance(container, dict) else range(len(container))
        for key in list(keys):
            found.append((container, key))
            if isinstance(container[key], dict | list):
                containers.append(container[key])
    return found


def mutate_tensor(tensor, rng):
    """Another shape, type, content or layout."""
    flat = tensor.flatten()
    changes = [
        lambda: tensor[..., :0],
        lambda: tensor.unsqueeze(0),
        lambda: flat,
        lambda: flat[:1].sum(),
        lambda: tensor.double(),
        lambda: tensor.half(),
        lambda: tensor.to(torch.int64),
        lambda: tensor.to(torch.complex64),
        lambda: tensor > 0,
        lambda: torch.full_like(tensor, math.nan) if tensor.is_floating_point() else -tensor,
        lambda: torch.full_like(tensor, 1e38) if tensor.is_floating_point() else tensor + 10**12,
        lambda: tensor.to_sparse(),
        lambda: torch.empty(2**40, device="meta"),
        lambda: torch.zeros(1).expand(2**40),  # a few bytes in the file
        lambda: torch.zeros(1).expand(2**20, 2**20, 2**20),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        lambda: torch.cat([tensor, tensor]) if tensor.ndim else tensor,
    ]
    return rng.choice(changes)()


def place(value, rng):
    """A random place, with sections of few and of many values alike: a container and a key."""
    while True:
        key = rng.choice(list(_keys(value)))
        inner = value[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.2:
            return value, key
        value = inner


def mutate(content, rng):
    """Change one to three places of nested lists, dicts and values; return the copy."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        if not isinstance(content, dict | list) or not content:
            return content
        paths = [(c, k) for c, k in sites(content) if isinstance(c[k], str) and "/" in c[k]]
        container, key = rng.choice(paths) if paths and rng.random() < 0.2 else place(content, rng)
        value = container[key]
        if isinstance(value, Tensor) and rng.random() < 0.8:
            container[key] = mutate_tensor(value, rng)
            continue
        match rng.randrange(12):
            case 0 | 1 | 2 | 3:
                container[key] = copy.deepcopy(rng.choice(VALUES))
            case 4 | 5:
                container[key] = rng.choice(PATHS)
            case 6:
                del container[key]
            case 7:
                container[key] = nested(rng.choice([list, dict]))
            case 8:
                container[key] = [value]
            case 9:
                other, at = place(content, rng)
                container[key] = copy.deepcopy(other[at])
            case 10 if isinstance(container, dict):
                container[rng.choice(["", "unknown", "../../x", "class_path", "_class_path"])] = (
                    container.pop(key)
                )
            case 10:
                container[key:key] = [copy.deepcopy(value)] * rng.choice([1, 3, 1000])
            case 11 if isinstance(value, int | float) and not isinstance(value, bool):
                container[key] = rng.choice(
                    [-value, value + 1, value * 1000, str(value), value / 3]
                )
            case 11:
                container[key] = {"a": value}
    return content


def _keys(container):
    return container if isinstance(container, dict) else range(len(container))


def mutate_text(text, rng):
    """Repeat, remove or swap lines, or give a key twice."""
    lines = text.splitlines(keepends=True)
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            lines.insert(at, lines[at])
        case 1:
            del lines[at]
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines.insert(at, rng.choice(["&a [*a]\n", "? \n", "\t- x\n", "<<: *b\n", "%YAML 9\n"]))
        case 4:
            lines.insert(at, rng.choice(["[", "{a: ", '{"a": ', "- "]) * 100_000)
        case 5:
            key = text.find('"', rng.randrange(len(text)))
            end = text.find('"', key + 1)
            return text[:key] + text[key : end + 1] + ": 1, " + text[key:] if end > 0 else text * 2
    return "".join(lines)


def mutate_bytes(data, rng):
    """Cut a file off, or injure it, at its beginning and end more often than between."""
    size = len(data)
    at = rng.choice(
        [rng.randrange(size), rng.randrange(min(size, 200)), -rng.randint(1, min(size, 200))]
    )
    at %= size
    span = rng.choice([1, 8, 100, 5000])
    noise = rng.randbytes(span)
    return {
        0: lambda: data[:at],
        1: lambda: data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :],
        2: lambda: data[:at] + noise + data[at + span :],
        3: lambda: data[:at] + bytes(span) + data[at + span :],
        4: lambda: data[:at] + noise + data[at:],
        5: lambda: data[at:],
        6: lambda: data + data,
        7: lambda: b"<html><body>404 Not Found</body></html>",
        8: lambda: b"",
    }[rng.randrange(9)]()


def _torch(data, rng):
    if rng.random() < 0.2:  # the pickle in the archive, with a checksum that is right
        archive = zipfile.ZipFile(io.BytesIO(data))
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as changed:
            for name in archive.namelist():
                part = archive.read(name)
                is_target = name.endswith(rng.choice(["data.pkl", "data.pkl", "version", "0"]))
                changed.writestr(name, mutate_bytes(part, rng) if is_target and part else part)
        return target.getvalue()
    content = torch.load(io.BytesIO(data), weights_only=True)
    target = io.BytesIO()
    torch.save(mutate(content, rng), target)
    return target.getvalue()


def _safetensors(data, rng):
    (size,) = struct.unpack("<Q", data[:8])
    header = json.dumps(mutate(json.loads(data[8 : 8 + size]), rng)).encode()
    length = rng.choice([len(header)] * 4 + [0, 2**63, len(header) + 1])
    return struct.pack("<Q", length) + header + data[8 + size :]


def _yaml(data, rng):
    if rng.random() < 0.3:
        return mutate_text(data.decode(), rng).encode("utf-8", "surrogatepass")
    return yaml.safe_dump(mutate(yaml.safe_load(data), rng), allow_unicode=True).encode()


def _json(data, rng):
    if rng.random() < 0.2:
        return mutate_text(json.dumps(json.loads(data), indent=1), rng).encode()
    return json.dumps(mutate(json.loads(data), rng)).encode()


BY_STRUCTURE = {
    ".ckpt": _torch,
    ".pth": _torch,
    ".safetensors": _safetensors,
    ".yaml": _yaml,
    ".json": _json,
}


def mutated(path, rng):
    """The bytes of a file, mutated: by the structure of its format, or every sixth time blindly."""
    data = path.read_bytes()
    mutate_content = BY_STRUCTURE.get(path.suffix, mutate_bytes)
    return (mutate_bytes if rng.random() < 1 / 6 else mutate_content)(data, rng)
