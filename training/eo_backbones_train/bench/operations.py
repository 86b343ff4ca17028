"""Counting the operations that a piece of code has torch launch."""

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# They allocate or rename memory and launch nothing, though their schemas do not call them views.
_NO_LAUNCH = frozenset({"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty"})
_NO_LAUNCH |= {"aten::new_empty_strided", "aten::_unsafe_view", "aten::_reshape_alias"}


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts operations that compute or copy; each is one kernel launch or more on a GPU.

    Not counted: views (``view``, ``t``, ``detach``, ...), allocations, and the profiler's marks. A foreach or fused
    operation counts once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count an operation and do it."""
        name = func.name().partition(".")[0]
        self.count += name.startswith("aten::") and not func.is_view and name not in _NO_LAUNCH
        return func(*args, **(kwargs or {}))


def launched_operations(work: Callable[[], object]) -> int:
    """Return how many operations ``work`` launches."""
    counter = OperationCounter()
    with counter:
        work()
    return counter.count
