"""Writes what dtype_to_f32 must answer: raw blocks of every number format and PyPI gguf's dequantised values.

    pip install gguf numpy; python3 tests/golden/dequantize.py      # writes tests/golden/dequantize/FORMAT.{raw,f32}

Blocks are random bytes from a fixed seed, so scales cover all of float16, subnormals, zeros and, in the plain formats, infinities
included. Only NaN is kept out: which payload survives arithmetic is the processor's choice.
"""
import pathlib

import gguf
import numpy as np

FOLDER = pathlib.Path(__file__).parent / "dequantize"
N_BLOCKS = 48
# Where float16 values stand in a block.
SCALES = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
# Zero, both signs, least and greatest subnormal, least normal, one, greatest, infinity.
EDGES_F16 = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00]
EDGES_BF16 = [0x0000, 0x8000, 0x0001, 0x8001, 0x007F, 0x0080, 0x3F80, 0xBF80, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80]


def without_nan_f16(bits):
    nan = ((bits & 0x7C00) == 0x7C00) & ((bits & 0x03FF) != 0)
    return np.where(nan, bits & 0xBFFF, bits).astype(np.uint16)


def quantised(rng, name):
    type_size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    blocks = rng.integers(0, 256, (N_BLOCKS, type_size), dtype=np.uint8)
    for i, at in enumerate(SCALES[name]):
        scales = without_nan_f16(rng.integers(0, 1 << 16, N_BLOCKS, dtype=np.uint16))
        # An infinite scale times a zero is NaN, so only finite edges here.
        finite = np.array([e for e in EDGES_F16 if e & 0x7C00 != 0x7C00], np.uint16)
        infinite = (scales & 0x7C00) == 0x7C00
        scales = np.where(infinite, scales & 0xBFFF, scales).astype(np.uint16)
        scales[:len(finite)] = np.roll(finite, i)
        blocks[:, at:at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks


def plain(rng, name):
    n = N_BLOCKS * 32
    if name == "F32":
        return rng.standard_normal(n, dtype=np.float32).view(np.uint8)
    bits = rng.integers(0, 1 << 16, n, dtype=np.uint16)
    if name == "F16":
        bits = without_nan_f16(bits)
        bits[:len(EDGES_F16)] = EDGES_F16
    else:
        nan = ((bits & 0x7F80) == 0x7F80) & ((bits & 0x007F) != 0)
        bits = np.where(nan, bits & 0xBFFF, bits).astype(np.uint16)
        bits[:len(EDGES_BF16)] = EDGES_BF16
    return bits.view(np.uint8)


def write(folder):
    rng = np.random.default_rng(20260131)
    folder.mkdir(exist_ok=True)
    for name in ("F32", "F16", "BF16", *SCALES):
        raw = quantised(rng, name) if name in SCALES else plain(rng, name)
        as_stored = raw.view({"F16": np.float16, "F32": np.float32}.get(name, np.uint8))
        values = gguf.dequantize(as_stored, gguf.GGMLQuantizationType[name]).astype(np.float32)
        assert not np.isnan(values).any(), name
        (folder / f"{name}.raw").write_bytes(raw.tobytes())
        (folder / f"{name}.f32").write_bytes(values.tobytes())


if __name__ == "__main__":
    write(FOLDER)
