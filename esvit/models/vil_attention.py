"""The attention of ViL: each token attends to the windows around it and to global tokens, or to all tokens."""

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn


class VilAttention(nn.Module):
    """Full attention or, with a `window`, attention to the neighbourhood and the global tokens.

    Every score has a bias for the distance between query and key, from a table of `reach` - 1 steps in each direction.
    With a global token, the bias depends on which of the two is global.

    With `one_neighbour`, each forward in training draws one of the eight neighbouring windows for all images, from
    torch's generator. In evaluation, a layer attends to all eight.

    With `resizes`, full attention on a square map that is not `reach` wide resizes the whole bias matrix, like the
    authors' code. Otherwise, each pair of places takes the entry of its own distance.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        num_global: int,
        reach: int,
        *,
        one_neighbour: bool = False,
        resizes: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.window, self.num_global, self.reach = heads, window, num_global, reach
        self.one_neighbour, self.resizes = one_neighbour, resizes
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.local_bias = nn.Parameter(trunc_normal_(torch.empty((2 * reach - 1) ** 2, heads), std=0.02))
        if num_global:
            self.mixed_bias = nn.Parameter(trunc_normal_(torch.empty(2, heads, num_global), std=0.02))
            self.global_bias = nn.Parameter(trunc_normal_(torch.empty(heads, num_global, num_global), std=0.02))

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Attention of tokens [B, G + H * W, D], the global ones first."""
        qkv = torch.unflatten(self.qkv(tokens), 2, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        parts = []
        if self.num_global:
            everywhere = self.mixed_bias[0, :, :, None].expand(-1, -1, height * width)
            bias = torch.cat([self.global_bias, everywhere], dim=2)
            parts.append(_attend(query[:, :, : self.num_global], key, value, bias))
        if self.window:
            parts.append(self._neighbourhood(query, key, value, height, width))
        else:
            bias = self._with_global(self._full_bias(height, width))
            parts.append(_attend(query[:, :, self.num_global :], key, value, bias))
        out: Tensor = self.proj(torch.cat(parts, dim=2).transpose(1, 2).flatten(2))
        return out

    def _full_bias(self, height: int, width: int) -> Tensor:
        """Bias [heads, H * W, H * W] between all places of a map."""
        device = self.local_bias.device
        if not self.resizes or height != width or height == self.reach:
            places = _grid(height, width, device)
            return self._bias(places, places)
        places = _grid(self.reach, self.reach, device)
        size = (height * width, height * width)
        return F.interpolate(self._bias(places, places)[None], size=size, mode="bicubic")[0]

    def _bias(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Bias [heads, N, M] between places [N, 2] and [M, 2]; distances beyond the table take its last entry."""
        reach = self.reach - 1
        steps = (queries[:, None] - keys).clamp(-reach, reach) + reach
        return self.local_bias[steps[..., 0] * (2 * reach + 1) + steps[..., 1]].permute(2, 0, 1)

    def _with_global(self, bias: Tensor) -> Tensor:
        """The bias [heads, N, M] of places, extended by the global tokens before the M keys."""
        if not self.num_global:
            return bias
        return torch.cat([self.mixed_bias[1, :, None].expand(-1, bias.shape[1], -1), bias], dim=2)

    def _neighbourhood(self, query: Tensor, key: Tensor, value: Tensor, height: int, width: int) -> Tensor:
        """Attention outputs of the places of the map: [B, heads, G + H * W, d] to [B, heads, H * W, d]."""
        window, num_global, device = self.window, self.num_global, query.device
        rows, columns = -(-height // window), -(-width // window)
        around = self._windows_seen(device)  # [S, 2]
        centre = torch.ones(1, 2, dtype=torch.long, device=device)

        def split(x: Tensor) -> Tensor:  # [B, heads, (rows + 2) * (columns + 2), window ** 2, d]
            return into_windows(torch.unflatten(x[:, :, num_global:], 2, (height, width)), window)

        def seen(x: Tensor) -> Tensor:  # [B, heads, windows, G + S * window ** 2, d]
            everywhere = x[:, :, None, :num_global].expand(-1, -1, rows * columns, -1, -1)
            return torch.cat([everywhere, gathered(split(x), rows, columns, around)], dim=3)

        own = _grid(window, window, device)
        places = (own + window * (around[:, None] - 1)).flatten(0, 1)
        real = into_windows(torch.zeros(1, 1, height, width, 1, device=device), window, outside=-torch.inf)
        real = gathered(real, rows, columns, around)[0, 0].mT  # [windows, 1, S * window ** 2]
        bias = self._with_global(self._bias(own, places))[:, None] + F.pad(real, (num_global, 0))
        out = _attend(gathered(split(query), rows, columns, centre), seen(key), seen(value), bias)
        out = torch.unflatten(torch.unflatten(out, 3, (window, window)), 2, (rows, columns))
        out = out.transpose(3, 4).flatten(2, 3).flatten(3, 4)
        return out[:, :, :height, :width].flatten(2, 3)

    def _windows_seen(self, device: torch.device) -> Tensor:
        """Rows and columns [S, 2] of the windows that a token attends to; its own window is at 1, 1."""
        windows = _grid(3, 3, device)
        if not (self.one_neighbour and self.training):
            return windows
        number = torch.randint(8, (1,), device=device)
        return windows[torch.cat([torch.full_like(number, 4), number + (number >= 4)])]


def into_windows(x: Tensor, window: int, outside: float = 0.0) -> Tensor:
    """Cut the map x [B, heads, H, W, d] into windows; a ring of windows around the map is filled with `outside`.

    Returns:
        [B, heads, (rows + 2) * (columns + 2), window ** 2, d].
    """
    height, width = x.shape[2:4]
    right, bottom = window + -width % window, window + -height % window
    x = F.pad(x, (0, 0, window, right, window, bottom), value=outside)
    x = torch.unflatten(torch.unflatten(x, 3, (-1, window)), 2, (-1, window))
    return x.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def gathered(windows: Tensor, rows: int, columns: int, around: Tensor) -> Tensor:
    """For each window of a map, concatenate the windows `around` [S, 2] it.

    Args:
        windows: As returned by `into_windows`.
        around: Rows and columns from 0 to 2, where 1, 1 is the window itself.

    Returns:
        [B, heads, rows * columns, S * window ** 2, d].
    """
    places = _grid(rows, columns, windows.device)[:, None] + around  # [rows * columns, S, 2]
    index = places[..., 0] * (columns + 2) + places[..., 1]
    return torch.unflatten(windows.index_select(2, index.flatten()), 2, index.shape).flatten(3, 4)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))


def _grid(height: int, width: int, device: torch.device) -> Tensor:
    """Places [H * W, 2] of a map, row by row."""
    return torch.cartesian_prod(torch.arange(height, device=device), torch.arange(width, device=device))
