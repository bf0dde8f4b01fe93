"""The kernel of PIL's Gaussian blur, for executors that convolve."""

import math

import numpy as np
from numpy.typing import NDArray


def blur_kernel(sigma: float) -> NDArray[np.float32]:
    """The kernel of PIL's GaussianBlur: three box filters with fractional edges, whose variances add up to sigma^2.

    One pass with the convolution of the three equals PIL's three passes but for its intermediate rounding.
    Source: Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering", 2011.
    """
    variance = sigma * sigma / 3
    whole = int((math.sqrt(12 * variance + 1) - 1) / 2)
    edge = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    box = np.array([edge, *[1.0] * (2 * whole + 1), edge]) / (2 * whole + 1 + 2 * edge)
    return np.convolve(np.convolve(box, box), box).astype(np.float32)


def blur_kernels(sigma: NDArray[np.float32]) -> NDArray[np.float32]:
    """A kernel for each positive sigma [...], centred in zeros: float32 [..., T], T odd; all zeros where sigma is 0."""
    blurred = np.argwhere(sigma > 0)
    kernels = [blur_kernel(float(sigma[tuple(place)])) for place in blurred]
    taps = max(map(len, kernels), default=1)
    table = np.zeros((*sigma.shape, taps), np.float32)
    for place, kernel in zip(blurred, kernels, strict=True):
        margin = (taps - len(kernel)) // 2
        table[tuple(place)][margin : taps - margin] = kernel
    return table
