"""PyTorch modules as people write them, for `rnnc.from_torch`: each with arguments of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

B, T, N, WORDS = 3, 7, 5, 11


def vectors(*sizes: int) -> Tensor:
    return torch.randn(*sizes)


def words(*sizes: int) -> Tensor:
    return torch.randint(0, WORDS, sizes)


class Tagger(nn.Module):
    """Names in a module of a module; two layers, both directions; readouts of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(WORDS, 8, padding_idx=0)
        self.encoder = nn.ModuleDict({"rnn": nn.LSTM(8, 6, 2, batch_first=True, dropout=0.2, bidirectional=True)})
        self.head = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 4))

    def forward(self, x: Tensor, h: Any = None) -> Any:
        y, (h, c) = self.encoder["rnn"](self.emb(x), h)
        both = torch.cat((h[-2], h[-1]), dim=1)
        merged = h.view(2, 2, x.size(0), -1)[-1].transpose(0, 1).flatten(1)
        whole = h.transpose(0, 1).reshape(x.shape[0], -1)
        swapped = h.view(2, 2, x.size(0), -1).permute(2, 1, 0, 3).flatten(1)
        tags = self.head(y + torch.tanh(y))
        return {"tags": tags, "words": self.head(both), "ends": (merged, y[:, -1], y[:, 0], whole, swapped), "c": c}


class LanguageModel(nn.Module):
    """Time first; tied weights; zeros as the first state; one axis of rows and steps, as in PyTorch's example."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(WORDS, 6)
        self.rnn = nn.LSTM(6, 6, 2)
        self.decoder = nn.Linear(6, WORDS)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Any:
        zeros = torch.zeros(2, x.size(1), 6, device=x.device)
        y, state = self.rnn(functional.dropout(self.encoder(x), 0.3, self.training), (zeros, zeros.to(x.device)))
        return functional.log_softmax(self.decoder(y).view(-1, WORDS), dim=1), state


class Tied(nn.Module):
    """F.linear with a table; a norm without bias; parameters that forward() reads itself, one of them transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(WORDS, 6)
        self.rnn = nn.GRU(6, 6, batch_first=True)
        self.norm = nn.LayerNorm(6, bias=False)
        self.W = nn.Parameter(torch.randn(6, 6))
        self.gain = nn.Parameter(torch.randn(6))
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.emb(x))
        y = (1 - self.norm(y) @ self.W * self.gain) / 2
        return functional.linear(y, self.emb.weight) - y @ self.emb.weight.t()


class Front(nn.Module):
    """Convolutions before a recurrent layer of the other layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(N, 6, 3, padding="same")
        self.norm = nn.BatchNorm1d(6)
        self.rnn = nn.GRU(6, 4, bidirectional=True)
        self.fc = nn.Linear(8, 1)
        nn.init.uniform_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Any:
        x = functional.relu(self.norm(self.conv(x.transpose(1, 2))))
        y, h = self.rnn(x.permute(2, 0, 1))
        return self.fc(y).squeeze(-1).t(), y.mean(0), y.max(dim=0)[0], h


class Chomp(nn.Module):
    """The block of a temporal convolutional network (Bai et al. 2018): causal, with a residual."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.cut = 2 * dilation
        self.conv = nn.Conv1d(channels, channels, 3, padding=self.cut, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + functional.glu(torch.cat((y := self.conv(x)[:, :, : -self.cut].contiguous(), y), 1), 1))


class Causal(nn.Module):
    """Padding by F.pad; chomped convolutions; a last step of (B, N, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 4, 3)
        self.blocks = nn.Sequential(*(Chomp(4, 2**k) for k in range(2)))
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        y = self.blocks(self.first(functional.pad(x.unsqueeze(1), (2, 0))))
        return self.fc(y[:, :, -1]), self.fc(y.transpose(1, 2))


class Translator(nn.Module):
    """Two inputs; a state from an encoder; a context at every step; rows and steps as one axis and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(N, 4, batch_first=True)
        self.decoder = nn.GRU(N, 4, batch_first=True)
        self.fc = nn.Linear(8, N)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        _, h = self.encoder(source)
        y, _ = self.decoder(target, h)
        context = h.squeeze(0).unsqueeze(1).expand(-1, target.size(1), -1)
        y = torch.cat([y, context], dim=-1).contiguous().view(-1, 8)
        return self.fc(y).view(target.size(0), target.size(1), -1)


class Autoencoder(nn.Module):
    """A sequence as one vector, which is read at each step; numbers of the other layout; window of all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(WORDS, 5)
        self.encoder = nn.LSTM(5, 6)
        self.decoder = nn.LSTM(6, 5)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Any:
        e = self.emb(x.long().t())
        _, (h, _) = self.encoder(e)
        y, _ = self.decoder(h[-1].unsqueeze(0).repeat(e.size(0), 1, 1))
        y += e
        columns = self.act(y * 0.5).permute(1, 2, 0)
        return y, functional.max_pool1d(columns, columns.size(2)).squeeze(2), functional.avg_pool1d(columns, 2)


class Attentive(nn.Module):
    """Attention over time (Bahdanau et al. 2015) in three spellings; vectors that are added, one of them a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(N, 6, batch_first=True)
        self.score = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 1, bias=False))
        self.bias = nn.Parameter(torch.randn(6))
        self.register_buffer("mean", torch.randn(N))

    def forward(self, x: Tensor) -> Any:
        y = self.rnn(x - self.mean)[0]
        weights = torch.softmax(self.score(y), dim=1)
        once = torch.bmm(weights.transpose(1, 2), y).squeeze(1)
        flat = functional.softmax(self.score(y).squeeze(-1), dim=-1)
        again = y.transpose(1, 2).matmul(flat.unsqueeze(-1)).squeeze(2)
        return (weights * y).sum(dim=1) + self.bias, once, again, (self.bias - y).sum(1)


class Forecaster(nn.Module):
    """Features of each sequence beside its steps, and as the first state."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(2, 6)
        self.rnn = nn.GRU(N + 2, 6, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor, features: Tensor) -> Any:
        beside = features.unsqueeze(1).expand(-1, x.size(1), -1)
        y, h = self.rnn(torch.cat([x, beside], dim=-1), torch.tanh(self.start(features)).unsqueeze(0))
        return self.fc(torch.cat([y, beside], dim=2)), self.fc(torch.cat([h[-1], features], dim=1))


class Twice(nn.Module):
    """One recurrent module called for two inputs; columns; gates."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(N, 6, nonlinearity="relu", batch_first=True)
        self.alias = self.rnn

    def forward(self, a: Tensor, b: Tensor) -> Any:
        first, second = self.rnn(a)[0], self.alias(b)[0]
        gate, value = first.chunk(2, dim=-1)
        return torch.sigmoid(gate) * value - 0.5 * second[..., 3:], second[..., 1]


class Projected(nn.Module):
    """Projection; float64; a size that is decided by the module."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(N, 6, proj_size=4, bias=False)
        self.act = nn.PReLU()
        self.double()

    def forward(self, x: Tensor, scale: float = 2.0) -> Any:
        y, (h, c) = self.rnn(x.double())
        return self.act(y) * scale, h[-1], c[0]


class Ragged(nn.Module):
    """A packed sequence in, and out."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(N, 4, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        y, (h, _) = self.rnn(packed)
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=T)
        return y, torch.cat((h[0], h[1]), -1)


class Step(nn.Module):
    """One step, with states as arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTMCell(N, 4)
        self.second = nn.GRUCell(4, 3)
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor, state: Any, g: Tensor) -> Any:
        h, c = self.first(x, state)
        g = self.second(h, g)
        return self.fc(g), h, c, g


STACK = nn.Sequential  # short, for the table
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "lstm": (lambda: nn.LSTM(N, 4, 2, bidirectional=True, batch_first=True), lambda: (vectors(B, T, N),)),
    "tagger": (Tagger, lambda: (words(B, T),)),
    "language model": (LanguageModel, lambda: (words(T, B),)),
    "tied": (Tied, lambda: (words(B, T),)),
    "front": (Front, lambda: (vectors(B, T, N),)),
    "causal": (Causal, lambda: (vectors(B, T),)),
    "translator": (Translator, lambda: (vectors(B, T, N), vectors(B, T, N))),
    "autoencoder": (Autoencoder, lambda: (words(B, T),)),
    "attentive": (Attentive, lambda: (vectors(B, T, N),)),
    "forecaster": (Forecaster, lambda: (vectors(B, T, N), vectors(B, 2))),
    "twice": (Twice, lambda: (vectors(B, T, N), vectors(B, T, N))),
    "projected": (Projected, lambda: (vectors(T, B, N).double(),)),
    "per step": (lambda: STACK(nn.Linear(N, 4), STACK(nn.Identity(), nn.Softplus(2.0))), lambda: (vectors(B, T, N),)),
    "pooled": (
        lambda: STACK(
            nn.Conv1d(N, 6, 3, stride=2, padding=1),
            nn.BatchNorm1d(6, affine=False),
            nn.PReLU(6),
            nn.MaxPool1d(2, padding=1),
            nn.ConvTranspose1d(6, 4, 3, stride=2, output_padding=1),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        ),
        lambda: (vectors(B, N, T),),
    ),
}
"""Name -> (the module, the arguments of a call)."""
