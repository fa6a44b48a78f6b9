"""Float64 all the way: a mode that turns every cast to float32 inside a forward pass into one to float64.

Models upcast norms, softmax and rotary tables to float32, which in a float64 model is a *down*cast, and hides
differences below 1e-7. Under `in_double` two ways to compute the same number agree to about 1e-14.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class in_double(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        if func is torch.full and isinstance(args[1], float):
            kwargs.setdefault("dtype", torch.float64)
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*args, **kwargs)
