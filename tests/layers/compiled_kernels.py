"""Skip tests of kernels that were not compiled."""

import pytest

from fcos_core.layers._operators import has_kernel


def require_kernel(name: str, device: str) -> None:
    # Without a kernel the definition runs, and a comparison of it with itself cannot fail.
    if not has_kernel(name, device.upper()):
        pytest.skip(f"fcos_core._C has no {device} kernel")
