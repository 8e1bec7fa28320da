"""A model that was not written for hptransfer."""

from torch import Tensor, nn

VOCABULARY = 256


class Tied(nn.Module):
    """Residual blocks of linear layers over an embedding that is also the readout."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
            for _ in range(depth)
        )
        self.readout = nn.Linear(width, VOCABULARY, bias=False)
        self.readout.weight = self.embedding.weight

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.embedding(inputs)
        for block in self.blocks:
            x = x + block(x)
        return self.readout(x)
