"""Readers of baseline JPEG and of packed images, written from their specifications alone.

Both return the coefficients of each component by block, int of shape (rows, columns, 64) in zigzag
order, with the quantization tables and the sampling factors.
"""

import numpy as np

ZIGZAG = sorted(
    range(64),
    key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8),
)


def read_jpeg(stream):
    """The coefficients of a baseline JPEG of one scan (ITU-T T.81)."""
    at, tables, codes = 2, {}, {}
    while stream[at + 1] != 0xDA:
        marker, size = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        body = stream[at + 4 : at + 2 + size]
        at += 2 + size
        if marker == 0xDB:
            while body:
                wide = body[0] >> 4
                values = np.frombuffer(body[1 : 65 + 64 * wide], ">u2" if wide else "u1")
                tables[body[0] & 15], body = values.astype(int), body[65 + 64 * wide :]
        elif marker == 0xC4:
            while body:
                counts, code, values, used = body[1:17], 0, {}, 17
                for length, count in enumerate(counts, 1):
                    for _ in range(count):
                        values[length, code] = body[used]
                        code, used = code + 1, used + 1
                    code *= 2
                codes[body[0]], body = values, body[used:]
        elif marker == 0xC0:
            height, width = (int.from_bytes(body[i : i + 2], "big") for i in (1, 3))
            parts = [body[6 + 3 * i : 9 + 3 * i] for i in range(body[5])]
    header = stream[at + 5 : at + 5 + 2 * len(parts)]
    scan = stream[at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big") : -2]
    bits = "".join(f"{byte:08b}" for byte in scan.replace(b"\xff\x00", b"\xff"))
    sampling = [(part[1] >> 4, part[1] & 15) for part in parts] if len(parts) > 1 else [(1, 1)]
    position, before = 0, [0] * len(parts)

    def take(count):
        nonlocal position
        position += count
        value = int(bits[position - count : position] or "0", 2)
        return value if not count or value >> (count - 1) else value - (1 << count) + 1

    def symbol(table):
        nonlocal position
        for length in range(1, 17):
            found = table.get((length, int(bits[position : position + length], 2)))
            if found is not None:
                position += length
                return found
        raise ValueError("no such code")

    def block(i):
        values = np.zeros(64, int)
        before[i] += take(symbol(codes[header[2 * i + 1] >> 4]))
        values[0], k = before[i], 1
        while k < 64 and (found := symbol(codes[16 | header[2 * i + 1] & 15])):
            k += found >> 4
            values[k] = take(found & 15)
            k += 1
        return values

    arrays = _mcus(height, width, sampling, lambda i, _: block(i))
    return arrays, [tables[part[2]] for part in parts], sampling


def read_packed(data):
    """The coefficients of a packed image (docs/packed.md)."""
    assert data[:5] == b"PKCO\x01"
    width, height = (int.from_bytes(data[i : i + 2], "little") for i in (8, 10))
    sampling = [(data[6], data[7]), (1, 1), (1, 1)][: data[5]]
    natural = np.frombuffer(data[16 : 16 + 128 * data[5]], "<u2").reshape(-1, 64)
    at = 16 + 128 * data[5]
    mcus_wide, mcus_high = -(-width // (8 * data[6])), -(-height // (8 * data[7]))
    at += 8 * -(-mcus_wide // 8) * mcus_high
    before = [0] * len(sampling)

    def take(count, signed=False):
        nonlocal at
        at += count
        return int.from_bytes(data[at - count : at], "little", signed=signed)

    def block(i, group_begins):
        if group_begins:
            before[:] = [0] * len(before)
        kind, values = take(1), np.zeros(64, int)
        before[i] += take(2 if kind & 16 else 1, signed=True)
        values[0], mask = before[i], take(kind & 15)
        places = [k + 1 for k in range(63) if mask >> k & 1]
        wide = (0, 2, 5, 8, 12, 20, 63, 63)[kind >> 5]
        for k in places[:wide]:
            values[k] = take(2 if kind >> 5 == 7 else 1, signed=True)
        rest = places[wide:]
        nibbles = take((len(rest) + 1) // 2)
        for j, k in enumerate(rest):
            code = nibbles >> 4 * j & 15
            values[k] = code - 8 if code < 8 else code - 7
        return values

    arrays = _mcus(height, width, sampling, block)
    assert data[at:] == bytes(144)
    return arrays, [table[ZIGZAG].astype(int) for table in natural], sampling


def same(ours, theirs):
    """Whether what two readers return is equal."""
    return all(
        len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        for a, b in zip(ours, theirs, strict=True)
    )


def _mcus(height, width, sampling, block):
    """Read all blocks, and drop those beyond the edge of their component."""
    h, v = sampling[0]
    mcus_wide, mcus_high = -(-width // (8 * h)), -(-height // (8 * v))
    arrays = [np.zeros((mcus_high * y, mcus_wide * x, 64), int) for x, y in sampling]
    for row in range(mcus_high):
        for column in range(mcus_wide):
            for i, (x, y) in enumerate(sampling):
                for j in range(x * y):
                    first = column % 8 == 0 and i == j == 0
                    place = row * y + j // x, column * x + j % x
                    arrays[i][place] = block(i, first)
    return [
        array[: (height * y + 8 * v - 1) // (8 * v), : (width * x + 8 * h - 1) // (8 * h)]
        for array, (x, y) in zip(arrays, sampling, strict=True)
    ]
