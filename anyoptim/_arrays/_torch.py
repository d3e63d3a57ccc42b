"""Torch tensors, on any device."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

from anyoptim._arrays._library import Array, Fingerprint, Library
from anyoptim._arrays._memory import MemoryLayout

__all__ = ["Torch", "is_dtensor", "tensor", "uncompiled"]

P = ParamSpec("P")
R = TypeVar("R")


class Torch(Library):
    """Torch."""

    name = "torch"

    def refusal(self, x: Array) -> str | None:
        if str(x.layout) != "torch.strided":
            return f"has layout {x.layout}; wanted torch.strided (a dense tensor)"
        return None

    def load(self, x: Array) -> Array:
        return x.detach()

    def write(self, p: Array, new: Array) -> None:
        # To the parameter itself and not to its detached view, so that autograd notices.
        with sys.modules["torch"].no_grad():
            p.copy_(new)

    def write_part(self, x: Array, key: Any, values: Array) -> None:
        index = sys.modules["torch"].asarray(key, device=x.device) if isinstance(key, np.ndarray) else key
        with sys.modules["torch"].no_grad():
            x[index] = values

    def writable(self, x: Array) -> bool:
        # The memory of a lazy conjugate or negation holds other values.
        read_only = x.is_inference() and not sys.modules["torch"].is_inference_mode_enabled()
        return not (read_only or x.is_conj() or x.is_neg())

    def numpy_view(self, x: Array) -> np.ndarray[Any, Any] | None:
        return None if x.dtype is sys.modules["torch"].bfloat16 else self.numpy_bits(x)

    def numpy_bits(self, x: Array) -> np.ndarray[Any, Any] | None:
        torch = sys.modules["torch"]
        if not self.numpy_can_create(x) or x.is_conj() or x.is_neg():
            return None
        try:
            if x.dtype is torch.bfloat16:
                return np.asarray(x.detach().view(torch.int16)).view(np.uint16)
            view: np.ndarray[Any, Any] = x.detach().numpy()
        except (RuntimeError, TypeError):  # under torch.func; a dtype that NumPy lacks
            return None
        return view if view.dtype.kind in "fc" else None

    def numpy_can_create(self, like: Array) -> bool:
        torch = sys.modules["torch"]
        if type(like) not in {torch.Tensor, torch.nn.Parameter} or like.device.type != "cpu" or _is_recorded():
            return False
        try:
            return bool(like.data_ptr()) or not like.numel()  # 0 under torch.func.functionalize
        except RuntimeError:  # under torch.func
            return False

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x.detach().cpu())

    def cuda(self, x: Array) -> int | None:
        torch = sys.modules["torch"]
        if type(x) not in {torch.Tensor, torch.nn.Parameter} or x.device.type != "cuda" or x.is_conj() or x.is_neg():
            return None
        if torch.version.cuda is None or _is_recorded():  # AMD's devices are called cuda, too
            return None
        try:
            return int(x.device.index) if x.data_ptr() or not x.numel() else None
        except RuntimeError:  # under torch.func
            return None

    def tracked_by_autograd(self, x: Array) -> bool:
        torch = sys.modules["torch"]
        if x.requires_grad and torch.is_grad_enabled():
            return True
        return torch.autograd.forward_ad.unpack_dual(x).tangent is not None

    def stream(self, number: int) -> int:
        return int(sys.modules["torch"].cuda.current_stream(number).cuda_stream)

    def capturing(self, number: int) -> bool:
        with sys.modules["torch"].cuda.device(number):
            return bool(sys.modules["torch"].cuda.is_current_stream_capturing())

    def fingerprint(self, ps: Sequence[Array]) -> Fingerprint:
        strides = None if all(p.is_contiguous() for p in ps) else [p.stride() for p in ps]
        addresses, devices = [p.data_ptr() for p in ps], [p.get_device() for p in ps]
        return Fingerprint(addresses, [p.dtype for p in ps], [tuple(p.shape) for p in ps], strides, devices)

    def unchanged_all(self, ps: Sequence[Array], fingerprint: Fingerprint) -> bool:
        # An assignment to `p.data` can change the dtype and the shape of `p`, too.
        return self._matches(ps, fingerprint) and [p.data_ptr() for p in ps] == fingerprint.addresses

    def addresses(self, xs: Sequence[Array], fingerprint: Fingerprint) -> list[int] | None:
        if {*map(type, xs)} != {sys.modules["torch"].Tensor} or not self._matches(xs, fingerprint):
            return None
        try:
            addresses = [x.data_ptr() for x in xs]
        except RuntimeError:  # under torch.func
            return None
        # The address is 0 where nothing is stored, which has to be where the parameter has no elements.
        return addresses if [a == 0 for a in addresses] == [a == 0 for a in fingerprint.addresses] else None

    @staticmethod
    def _matches(xs: Sequence[Array], fingerprint: Fingerprint) -> bool:
        """Whether tensors have this fingerprint, but for their addresses."""
        if [x.shape for x in xs] != fingerprint.shapes or [x.dtype for x in xs] != fingerprint.dtypes:
            return False
        try:
            if fingerprint.strides is None:
                same = False not in [x.is_contiguous() for x in xs]
            else:
                same = [x.stride() for x in xs] == fingerprint.strides
        except RuntimeError:  # sparse
            return False
        plain = True not in [x.is_neg() or x.is_conj() for x in xs]
        return same and plain and [x.get_device() for x in xs] == fingerprint.devices

    def unchanged(self, x: Array, memory: MemoryLayout | None) -> bool:
        return memory is not None and self.writable(x) and self.memory(x) == memory

    def is_plain_gradient(self, x: Array, p: Array) -> bool:
        torch = sys.modules["torch"]
        same = type(x) is torch.Tensor and x.dtype is p.dtype and x.shape == p.shape and x.device == p.device
        return same and not x.requires_grad and str(x.layout) == "torch.strided"

    def address(self, x: Array) -> int | None:
        if not x.is_contiguous() or x.is_conj() or x.is_neg():
            return None
        try:
            address: int = x.data_ptr()
        except RuntimeError:  # under torch.func
            return None
        return None if not address or address % x.element_size() else address

    def copied(self, x: Array) -> Array:
        return x.detach().clone()

    def mark_written(self, arrays: Sequence[Array]) -> None:
        # Inference tensors count no versions.
        sys.modules["torch"].autograd.graph.increment_version([x for x in arrays if not x.is_inference()])

    def memory(self, x: Array) -> MemoryLayout | None:
        try:
            address = x.data_ptr()
        except RuntimeError:  # under torch.func a tensor stands for many
            return None
        if not address:  # nothing is stored: a meta tensor
            return None
        size = x.element_size()
        strides = tuple(step * size for step in x.stride())
        return MemoryLayout(str(x.device), address, tuple(x.shape), strides, size)

    def join_complex(self, real: Array, imag: Array, dtype: Any) -> Array:
        return sys.modules["torch"].complex(real, imag)


def _is_recorded() -> bool:
    """Whether torch records operations or passes them to a mode, neither of which would see what NumPy does.

    This is so under `torch.compile`, `torch.jit.trace`, `make_fx` and fake tensors.
    """
    torch = sys.modules["torch"]
    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack())


def is_dtensor(x: Any) -> bool:
    """Whether `x` is a DTensor. Their module is loaded where there are any."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def uncompiled(call: Callable[P, R]) -> Callable[P, R]:
    """The same function, which `torch.compile` leaves out of its graph.

    Its products of integers wrap around, which C++ leaves undefined: compiled by Inductor they may give other words.
    """

    @functools.wraps(call)
    def outside(*args: P.args, **kwargs: P.kwargs) -> R:
        torch = sys.modules.get("torch")
        if torch is not None and torch.compiler.is_compiling():
            return torch.compiler.disable(call)(*args, **kwargs)  # type: ignore[no-any-return]
        return call(*args, **kwargs)

    return outside


def tensor(value: Any) -> Any:
    """A copy as a torch tensor: of a tensor on its device, of a NumPy array on the CPU; of a number, as a count."""
    import torch  # noqa: PLC0415 - the caller asks for a tensor

    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    # Counts have the dtype that they have in torch's optimizers.
    wide = torch.get_default_dtype() == torch.float64
    return torch.tensor(float(value), dtype=torch.float64 if wide else torch.float32)
