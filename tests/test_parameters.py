"""Binding parameters: what is accepted, that it is copied, and what every refusal says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.checking.parameters import bind_parameters

SPEC = rnnc.GRU(3, 4, 2)
PARAMS = SPEC.init(seed=1)
WIDE = rnnc.GRU(3, 4, 2, dtype="float64")


class OnGpu:
    """What a CuPy array shows of itself."""

    __cuda_array_interface__: dict[str, object] = {}

    def __array__(self) -> np.ndarray:
        raise TypeError("implicit conversion to a NumPy array is not allowed")

    def get(self) -> np.ndarray:
        return np.zeros(3)


class WithArray:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array


class WithDlpack:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def reversed_in_memory(array: np.ndarray) -> np.ndarray:
    """Equal numbers with negative strides."""
    turn = (slice(None, None, -1),) * array.ndim
    return np.ascontiguousarray(array[turn])[turn]


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def misaligned(array: np.ndarray) -> np.ndarray:
    buffer = np.empty(array.nbytes + 1, np.uint8)
    view = buffer[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


@pytest.mark.parametrize(
    "form",
    [np.asarray, np.asfortranarray, reversed_in_memory, read_only, misaligned, WithArray, WithDlpack],
)
def test_arrays_of_every_form_are_bound_and_copied(form: Any) -> None:
    originals = {name: array.copy() for name, array in PARAMS.items()}
    bound = bind_parameters(SPEC, {name: form(array) for name, array in reversed(originals.items())})
    assert list(bound) == list(SPEC.parameter_shapes())
    for name, array in bound.items():
        assert type(array) is np.ndarray and array.flags.c_contiguous and array.flags.aligned
        assert not array.flags.writeable
        originals[name][...] = np.nan
        np.testing.assert_array_equal(array, PARAMS[name])


def test_a_bound_model_keeps_the_numbers_it_was_given() -> None:
    params = {name: array.copy() for name, array in PARAMS.items()}
    model = rnnc.compile(SPEC, params, backend="reference")
    x = np.linspace(-1, 1, 30, dtype=np.float32).reshape(5, 2, 3)
    before, _ = model(x)
    for array in params.values():
        array[...] = 7
    params.clear()
    after, _ = model(x)
    np.testing.assert_array_equal(after, before)


def test_a_state_dict_of_pytorch_binds_as_it_is() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.GRU(3, 4, 2)
    for name, array in bind_parameters(SPEC, module.state_dict()).items():
        np.testing.assert_array_equal(array, module.state_dict()[name].numpy())
    with pytest.raises(rnnc.ArgumentTypeError, match=r"weight_ih_l0'\]: .*requires gradients.*module.state_dict\(\)"):
        bind_parameters(SPEC, dict(module.named_parameters()))
    with pytest.raises(rnnc.ArgumentTypeError, match=r"pass module.state_dict\(\)"):
        bind_parameters(SPEC, module)
    with pytest.raises(rnnc.ArgumentTypeError, match="on meta, this backend runs on the CPU; pass value.cpu"):
        bind_parameters(SPEC, torch.nn.GRU(3, 4, 2, device="meta").state_dict())
    with pytest.raises(rnnc.DtypeError, match=r"params\['weight_ih_l0'\]: expected float32, got float64"):
        bind_parameters(SPEC, torch.nn.GRU(3, 4, 2, dtype=torch.float64).state_dict())
    with pytest.raises(
        rnnc.ArgumentTypeError, match=r"NumPy cannot read this torch.bfloat16 array: .*; pass value.float\(\)"
    ):
        bind_parameters(SPEC, torch.nn.GRU(3, 4, 2, dtype=torch.bfloat16).state_dict())


def changed(**changes: Any) -> dict[str, Any]:
    return PARAMS | changes


def without(*names: str) -> dict[str, Any]:
    return {name: array for name, array in PARAMS.items() if name not in names}


def renamed(rename: Any) -> dict[str, Any]:
    return {rename(name): array for name, array in PARAMS.items()}


@pytest.mark.parametrize(
    ("params", "error", "parts"),
    [
        (None, rnnc.ArgumentTypeError, ["params: expected a mapping of names to arrays, got NoneType"]),
        (list(PARAMS.values()), rnnc.ArgumentTypeError, ["params: expected a mapping", "got list"]),
        ({}, rnnc.ParameterError, ["missing 'weight_ih_l0' (12, 3), ", "'bias_hh_l1' (12,)"]),
        (without("bias_hh_l1"), rnnc.ParameterError, ["params: missing 'bias_hh_l1' (12,)"]),
        (changed(extra=np.zeros(3)), rnnc.ParameterError, ["params: unknown 'extra'"]),
        (without("bias_hh_l1") | {"bias_hhl1": PARAMS["bias_hh_l1"]}, rnnc.ParameterError,
         ["missing 'bias_hh_l1' (12,); unknown 'bias_hhl1' (did you mean 'bias_hh_l1'?)"]),
        (without() | {3: np.zeros(3)}, rnnc.ParameterError, ["unknown 3"]),
        (renamed(lambda name: "encoder.gru." + name), rnnc.ParameterError,
         ["the names start with 'encoder.gru.'; pass rnnc.take(params, 'encoder.gru.')"]),
        (renamed(lambda name: "gru." + name) | {"fc.weight": np.zeros(3)}, rnnc.ParameterError,
         ["pass rnnc.take(params, 'gru.')"]),
        (rnnc.GRU(3, 4, 7).init(), rnnc.ParameterError, ["unknown 'weight_ih_l2'", "and 12 more"]),
        (changed(bias_ih_l0=np.zeros(13, np.float32)), rnnc.ShapeError,
         ["params['bias_ih_l0']: expected shape (12,), got (13,)"]),
        (changed(bias_ih_l0=np.zeros((12, 1), np.float32)), rnnc.ShapeError, ["expected shape (12,), got (12, 1)"]),
        (changed(weight_ih_l0=PARAMS["weight_ih_l0"].T), rnnc.ShapeError,
         ["params['weight_ih_l0']: expected shape (12, 3), got (3, 12); transpose it"]),
        (changed(bias_ih_l0=np.zeros(12)), rnnc.DtypeError,
         ["params['bias_ih_l0']: expected float32, got float64", "value.astype(np.float32)", "dtype='float64'"]),
        (changed(bias_ih_l0=np.zeros(12, ">f4")), rnnc.DtypeError, ["got >f4; pass value.astype(np.float32)"]),
        (changed(bias_ih_l0=np.zeros(12, np.int32)), rnnc.DtypeError, ["expected float32, got int32"]),
        (changed(bias_ih_l0=[0.0] * 12), rnnc.ArgumentTypeError,
         ["params['bias_ih_l0']: expected a NumPy array, got [0.0,", "use np.asarray(value, dtype=...)"]),
        (changed(bias_ih_l0=None), rnnc.ArgumentTypeError, ["params['bias_ih_l0']: expected a NumPy array, got None"]),
        (changed(bias_ih_l0=np.ma.zeros(12, np.float32)), rnnc.ArgumentTypeError, ["masked array"]),
        (changed(bias_ih_l0=OnGpu()), rnnc.ArgumentTypeError, ["the array is on cuda", "pass value.get()"]),
    ],
)  # fmt: skip
def test_every_refusal_says_what_came_and_what_to_do(params: Any, error: type[Exception], parts: list[str]) -> None:
    with pytest.raises(error) as caught:
        bind_parameters(SPEC, params)
    for part in parts:
        assert part in str(caught.value)


def test_a_float64_spec_refuses_float32_parameters() -> None:
    with pytest.raises(rnnc.DtypeError, match="expected float64, got float32; .*dtype='float32'"):
        bind_parameters(WIDE, PARAMS)


def test_the_hint_for_a_prefix_works() -> None:
    params = renamed(lambda name: "gru." + name) | {"fc.weight": np.zeros(3)}
    with pytest.raises(rnnc.ParameterError) as caught:
        bind_parameters(SPEC, params)
    repaired = eval(str(caught.value).partition("pass ")[2], {"params": params, "rnnc": rnnc})
    assert list(bind_parameters(SPEC, repaired)) == list(PARAMS)
