"""Counts the operations that a piece of code launches."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class LaunchedOperations(TorchDispatchMode):
    """Context manager: ``count`` aten operations that compute something.

    Left out: views and ``detach`` (they relabel memory) and ``empty`` (it allocates); neither launches a kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not operation.is_view and not operation.__name__.startswith("empty"):
            self.count += 1
        return operation(*args, **(kwargs or {}))
