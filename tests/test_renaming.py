"""Parameters of other names: `names=` of compile and bind, `rnnc.rename`, and the mapping that an error proposes."""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np
import pytest

import rnnc

SPEC = rnnc.LSTM(3, 4)
NET = rnnc.Sequential(SPEC, rnnc.Linear(4, 2))
GRAPH = rnnc.Graph({"x": 3}, {"low.rnn": (SPEC, "x"), "fc": (rnnc.Linear(4, 4), "low.rnn")}, "fc")
X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 1, 3)


def called(params: dict[str, Any], **layers: str) -> dict[str, Any]:
    """The parameters with other layers: new name of the layer -> old name ("" of a spec)."""
    return {
        f"{new}.{name.removeprefix(old + '.') if old else name}": array
        for new, old in layers.items()
        for name, array in params.items()
        if name.startswith(old)
    }


def same(model: Any, other: Any) -> bool:
    first, second = model(X), other(X)
    pair = (first[0], second[0]) if isinstance(first, tuple) else (first, second)
    return bool(np.array_equal(*pair))


@pytest.mark.parametrize("names", ({"rnn": "0", "fc": "1"}, "by structure"))
def test_networks_and_specs_take_parameters_of_other_names(names: Any) -> None:
    params = NET.init(seed=1)
    given = called(params, rnn="0", fc="1")
    assert same(NET.compile(given, backend="reference", names=names), NET.compile(params, backend="reference"))

    own = SPEC.init(seed=1)
    mapping = names if isinstance(names, str) else {"rnn": ""}
    plain = rnnc.compile(SPEC, own, backend="reference")
    assert same(rnnc.compile(SPEC, called(own, rnn=""), backend="reference", names=mapping), plain)
    assert same(rnnc.compile(SPEC, backend="reference").bind(called(own, rnn=""), names=mapping), plain)


def test_whole_names_none_and_the_longest_beginning() -> None:
    params = GRAPH.init(seed=1)
    given = called(params, net="low.rnn", head="fc") | {"net.steps": np.int64(3), "W": params["fc.weight"]}
    del given["head.weight"]
    names = {"net": "low.rnn", "net.steps": None, "head": "fc", "W": "fc.weight"}
    found = rnnc.rename(GRAPH, given, names)
    assert set(found) == set(params) and all(found[name] is params[name] for name in params)


@pytest.mark.parametrize(
    "model, layers, extra",
    (
        (NET, {"rnn": "0", "fc": "1"}, {}),
        (GRAPH, {"x.y": "low.rnn", "out": "fc"}, {"norm.num_batches_tracked": np.int64(0)}),
        (NET, {"fc": "1", "rnn": "0"}, {"other.weight": np.zeros((9, 9))}),  # in another order: by shapes alone
    ),
)
def test_the_error_shows_the_mapping_to_write(model: Any, layers: dict[str, str], extra: dict[str, Any]) -> None:
    params = model.init(seed=1)
    given = called(params, **layers) | extra
    with pytest.raises(rnnc.ParameterError) as caught:
        model.compile(given)
    mapping = re.search(r"give names=({.*?})", str(caught.value))
    assert mapping is not None
    found = rnnc.rename(model, given, ast.literal_eval(mapping[1]))
    assert set(found) == set(params) and all(found[name] is params[name] for name in params)


def test_the_error_maps_a_cell_of_torch_to_a_spec() -> None:
    params = {name.removesuffix("_l0"): array for name, array in SPEC.init().items()}
    with pytest.raises(rnnc.ParameterError, match=r"names=\{'weight_ih': 'weight_ih_l0', "):
        rnnc.compile(SPEC, params)


SWAPPED = dict(reversed(rnnc.GRU(4, 4).init().items()))
REFUSED: tuple[tuple[Any, Any, Any, type[Exception], str], ...] = (
    (NET, NET.init(), {"2": "0"}, rnnc.ParameterError, "no parameter is '2'"),
    (NET, NET.init(), {"0": "1", "1.bias": "1.bias_ih_l0"}, rnnc.ParameterError, "both become '1.bias_ih_l0'"),
    (NET, NET.init(), {"0": 1}, rnnc.ArgumentTypeError, "expected names, or None"),
    (NET, NET.init(), "structure", rnnc.ArgumentTypeError, "'by structure', got 'structure'"),
    (NET, [1], "by structure", rnnc.ArgumentTypeError, "expected a mapping of names to arrays"),
    (NET, SPEC.init(), "by structure", rnnc.ParameterError, "4 arrays, the model has 6"),
    (SPEC, rnnc.LSTM(3, 5).init(), "by structure", rnnc.ShapeError, r"'weight_ih_l0' \(20, 3\)"),
    (rnnc.GRU(4, 4), SWAPPED, "by structure", rnnc.ShapeError, "parameter 0"),
    (
        rnnc.GRU(4, 4, bias=False),
        dict(reversed(rnnc.GRU(4, 4, bias=False).init().items())),
        "by structure",
        rnnc.ParameterError,
        "'weight_hh_l0', that of the model is 'weight_ih_l0'",
    ),
)


@pytest.mark.parametrize("model, params, names, error, message", REFUSED)
def test_names_that_do_not_fit(model: Any, params: Any, names: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rnnc.rename(model, params, names)


def test_names_without_parameters() -> None:
    with pytest.raises(rnnc.ArgumentError, match="names"):
        rnnc.compile(SPEC, names="by structure")  # type: ignore[call-overload]
