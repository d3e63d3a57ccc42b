"""Arrays of any library as the tensors of a safetensors file, and back as NumPy's."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import library, traced

__all__ = ["DTYPES", "Tensor", "stored"]

DTYPES = {
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "BOOL": "bool",
}
"""Safetensors' names of the dtypes, and NumPy's."""


class Tensor(NamedTuple):
    """An array as a file has it."""

    dtype: str
    """Safetensors' name of it."""
    shape: tuple[int, ...]
    data: np.ndarray[Any, Any]
    """The elements in C order, the low byte of each first: any array of these bytes will do."""

    @property
    def content(self) -> memoryview:
        """The bytes."""
        return self.data.reshape(-1).view(np.uint8).data

    def array(self, is_complex: bool) -> np.ndarray[Any, Any]:
        """The tensor as a NumPy array, float32 for bfloat16. Raises ValueError or KeyError where that can't be."""
        if self.dtype == "BF16":
            wide = np.asarray(self._elements("<u2").astype(np.uint32))
            wide <<= 16
            values = wide.view(np.float32)
        else:
            values = self._elements(np.dtype(DTYPES[self.dtype]).newbyteorder("<"))
        if not is_complex:
            return values
        if values.dtype.kind != "f" or not values.ndim or values.shape[-1] != 2:
            raise ValueError(f"a tensor of dtype {self.dtype} and shape {self.shape} is not of complex numbers")
        return values.view(np.result_type(values.dtype, np.complex64)).reshape(values.shape[:-1])

    def _elements(self, dtype: Any) -> np.ndarray[Any, Any]:
        elements: np.ndarray[Any, Any] = self.data.view(dtype).reshape(self.shape)
        return elements.astype(np.dtype(dtype).newbyteorder("="), copy=False)


def stored(name: str, x: Any) -> tuple[Tensor, bool]:
    """An array as a tensor, and whether it is complex: then the last axis has the real and the imaginary parts.

    Raises TypeError for what is no array, or of a dtype that there are no tensors of.
    """
    try:
        arrays = library(x)
    except TypeError:
        raise TypeError(f"{name} is a {type(x).__module__}.{type(x).__qualname__}, which can't be saved") from None
    why = arrays.refusal(x)
    if why is not None:
        raise TypeError(f"{name} {why}")
    if traced(x):
        raise TypeError(f"{name} is traced; wanted an array whose values are known")
    a = arrays.load(x)
    dtype = arrays.dtype(a)
    if dtype == "bfloat16":
        wide = np.asarray(arrays.to_host(arrays.xp.astype(a, arrays.xp.float32)), order="C")
        return Tensor("BF16", wide.shape, np.asarray(wide.view(np.uint32) >> 16, "<u2")), False
    host = np.asarray(arrays.to_host(a), order="C")
    is_complex = dtype.startswith("complex")
    if is_complex:
        host = host.reshape(-1).view(host.real.dtype).reshape(*host.shape, 2)
    their_dtype = next((theirs for theirs, numpys in DTYPES.items() if numpys == host.dtype.name), None)
    if their_dtype is None:
        raise TypeError(f"{name} has dtype {dtype}; wanted one of {', '.join(DTYPES.values())}, or complex")
    return Tensor(their_dtype, host.shape, host.astype(host.dtype.newbyteorder("<"), copy=False)), is_complex
