"""Point-BERT in plain torch: groups of neighbouring points become tokens of a transformer.

Yu et al., Point-BERT, arXiv 2111.14819, section 3.1, as ULIP (arXiv 2212.05171), ULIP-2 (arXiv 2305.08275) and PointLLM
(arXiv 2308.16911) built it: positions are added again before every block. Parameters bear the names of their
checkpoints.

Shapes: M clouds, N points a cloud, C channels (x, y, z and perhaps r, g, b), G groups, K points a group, E width of a
group's feature, D width of the transformer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

POSITION_HIDDEN = 128
MLP_RATIO = 4


class PointBert(nn.Module):
    """Points and the indices of group centres -> a class token and a token for each group."""

    def __init__(
        self,
        channels: int,
        group_size: int,
        group_widths: tuple[int, int, int, int],
        width: int,
        depth: int,
        heads: int,
        drop_path: float,
    ) -> None:
        """Args: channels C, group_size K, group_widths (the last is E), width D; drop_path: of the last block."""
        super().__init__()
        self.group_size = group_size
        self.encoder = GroupEncoder(channels, group_widths)
        self.reduce_dim = nn.Linear(group_widths[-1], width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.cls_pos = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Sequential(nn.Linear(3, POSITION_HIDDEN), nn.GELU(), nn.Linear(POSITION_HIDDEN, width))
        self.blocks = Blocks(width, depth, heads, drop_path)
        self.norm = nn.LayerNorm(width)

    def forward(self, points: Tensor, centres: Tensor) -> Tensor:
        """Points [M, N, C], indices of centres [M, G] -> [M, 1 + G, D], the class token first."""
        neighbourhoods, places = grouped(points, centres, self.group_size)
        dtype = self.cls_token.dtype
        tokens = self.reduce_dim(self.encoder(neighbourhoods.to(dtype)))
        count = points.shape[0]
        rows = torch.cat([self.cls_token.expand(count, -1, -1), tokens], dim=1)
        positions = torch.cat([self.cls_pos.expand(count, -1, -1), self.pos_embed(places.to(dtype))], dim=1)
        values: Tensor = self.norm(self.blocks(rows, positions))
        return values


def grouped(points: Tensor, centres: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The nearest points of each centre, by Euclidean distance.

    Distances are summed up axis by axis rather than by a matrix product, whose rounding depends on the batch and, under
    autocast, on 8 bits: a cloud then has the same groups in any batch.

    Args:
        points: [M, N, C], x, y and z first.
        centres: [M, G] indices of points.
        size: K.

    Returns:
        neighbourhoods [M, G, K, C] with x, y, z relative to the centre, in no order; centres [M, G, 3].
    """
    count, _, channels = points.shape
    places = points[..., :3].gather(1, centres[..., None].expand(-1, -1, 3))
    with torch.no_grad():
        distances = (places[:, :, None, 0] - points[:, None, :, 0]).square_()
        for axis in (1, 2):
            distances += (places[:, :, None, axis] - points[:, None, :, axis]).square_()
        nearest = distances.topk(size, dim=-1, largest=False, sorted=False).indices
    flat = nearest.flatten(1)[..., None].expand(-1, -1, channels)
    found = points.gather(1, flat).view(count, -1, size, channels)
    relative = found[..., :3] - places[:, :, None]
    return torch.cat([relative, found[..., 3:]], dim=-1), places


class GroupEncoder(nn.Module):
    """A small PointNet: the points of each group -> one feature, whatever their order."""

    def __init__(self, channels: int, widths: tuple[int, int, int, int]) -> None:
        """Args: channels C; widths of its four layers, the last is E."""
        super().__init__()
        first, second, third, width = widths
        self.first_conv = _pointwise(channels, first, second)
        self.second_conv = _pointwise(2 * second, third, width)

    def forward(self, groups: Tensor) -> Tensor:
        """[M, G, K, C] -> [M, G, E]."""
        count, number, size, channels = groups.shape
        first, norm, _, second = self.first_conv
        local = _linear(second, functional.relu(norm(_linear(first, groups.reshape(-1, channels)))))
        local = local.view(count * number, size, -1)
        maximum = local.max(dim=1).values
        third, norm, _, fourth = self.second_conv
        assert isinstance(third, nn.Conv1d)
        # the original concatenates the group's maximum to each point: its half of the product is the same for all
        # points
        of_maximum, of_local = third.weight[..., 0].chunk(2, dim=1)
        mixed = functional.linear(local, of_local) + functional.linear(maximum, of_maximum, third.bias)[:, None]
        features = _linear(fourth, functional.relu(norm(mixed.flatten(0, 1))))
        return features.view(count, number, size, -1).max(dim=2).values


def _pointwise(channels: int, hidden: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(channels, hidden, 1), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Conv1d(hidden, width, 1))


def _linear(layer: nn.Module, rows: Tensor) -> Tensor:
    """A convolution of one place is a matrix: rows [R, C] -> [R, C'], in one product, which is faster on a CPU."""
    assert isinstance(layer, nn.Conv1d)
    return functional.linear(rows, layer.weight[..., 0], layer.bias)


class Blocks(nn.Module):
    """The transformer. Positions are added to the tokens before every block."""

    def __init__(self, width: int, depth: int, heads: int, drop_path: float) -> None:
        super().__init__()
        rates = [drop_path * index / max(1, depth - 1) for index in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in rates)

    def forward(self, rows: Tensor, positions: Tensor) -> Tensor:
        """[M, S, D] and [M, S, D] -> [M, S, D]."""
        for block in self.blocks:
            rows = block(rows + positions)
        return rows


class Block(nn.Module):
    """Pre-norm self-attention and MLP; in training, each is skipped for a cloud at `drop_path`'s rate."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, rows: Tensor) -> Tensor:
        """[M, S, D] -> [M, S, D]."""
        rows = rows + self._dropped(self.attn(self.norm1(rows)))
        return rows + self._dropped(self.mlp(self.norm2(rows)))

    def _dropped(self, rows: Tensor) -> Tensor:
        """Stochastic depth (Huang et al., arXiv 1603.09382), by cloud."""
        if not self.training or self.drop_path == 0:
            return rows
        keep = 1 - self.drop_path
        return rows * (rows.new_empty(len(rows), 1, 1).bernoulli_(keep) / keep)


class Attention(nn.Module):
    """Multi-head self-attention without offsets on queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, rows: Tensor) -> Tensor:
        """[M, S, D] -> [M, S, D]."""
        count, length, width = rows.shape
        query, key, value = self.qkv(rows).view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        found: Tensor = self.proj(mixed.transpose(1, 2).reshape(count, length, width))
        return found


class MLP(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, rows: Tensor) -> Tensor:
        """[M, S, D] -> [M, S, D]."""
        found: Tensor = self.fc2(functional.gelu(self.fc1(rows)))
        return found
