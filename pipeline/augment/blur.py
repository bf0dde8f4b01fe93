"""The kernel of PIL's Gaussian blur, for executors that convolve."""

import numpy as np
from numpy.typing import NDArray


def blur_kernels(sigma: NDArray[np.float32]) -> NDArray[np.float32]:
    """The kernels of PIL's GaussianBlur: three box filters with fractional edges, whose variances add up to sigma^2.

    PIL applies the three filters one after another. This kernel is their convolution, so one pass gives the same result
    up to PIL's intermediate rounding.
    Source: Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering", 2011.

    Args:
        sigma: In pixels, [...]; 0 for none.

    Returns:
        float32 [..., T], T odd: each kernel centred and padded with zeros; all zeros where sigma is 0.
    """
    variance = np.square(sigma, dtype=np.float64)[..., None] / 3
    whole = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    edge = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    reach = int(whole.max(initial=0)) + 1
    distance = np.abs(np.arange(-reach, reach + 1))
    box = np.select([distance <= whole, distance == whole + 1], [1.0, edge]) / (2 * whole + 1 + 2 * edge)
    kernels = _convolve(_convolve(box, box), box)
    return np.where(variance > 0, kernels, 0).astype(np.float32)


def _convolve(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Full convolution along the last axis."""
    result = np.zeros((*a.shape[:-1], a.shape[-1] + b.shape[-1] - 1))
    for i in range(b.shape[-1]):
        result[..., i : i + a.shape[-1]] += a * b[..., i : i + 1]
    return result
