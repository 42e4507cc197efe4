"""Activations: the numbers that PyTorch gives, in both element types, at both ends of the range."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense.activations import ACTIVATIONS, elu, erf, leaky_relu, sigmoid, softplus
from xpdense.backend import Backend, resolve


def forward_and_derivative(place: Backend, activation: xd.Activation, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a and da/dz, through what the activation says that its derivative is taken of."""
    points = place.from_host(z.copy())
    a = activation.forward(place.xp, points)
    derivative = activation.derivative(place.xp, a if activation.saves == "output" else points)
    assert np.array_equal(place.to_host(points), z)  # neither wrote into z
    a, derivative = place.to_host(a), place.to_host(derivative)
    assert a.dtype == derivative.dtype == z.dtype
    assert a.shape == derivative.shape == z.shape
    return a, derivative


# --- the error function ------------------------------------------------------------------------------------------

def test_erf_is_that_of_the_c_library_to_the_last_bits(place: Backend) -> None:
    seams = [np.nextafter(s, d) for s in (0.46875, 4.0, 6.0, 5.9215871957945) for d in (0.0, s, 9.0)]
    positive = np.concatenate([np.linspace(0.0, 7.0, 20001), seams, [5e-324, 1e-300, 1e-9, 30.0, 1e4, 1e300]])
    x = np.concatenate([positive, -positive])
    value = place.to_host(erf(place.xp, place.from_host(x)))
    assert np.max(np.abs(value - [math.erf(v) for v in x])) < 4e-16
    assert np.array_equal(value, -place.to_host(erf(place.xp, place.from_host(-x))))  # odd, exactly
    assert np.array_equal(np.unique(np.abs(value[np.abs(x) >= 6.0])), [1.0])


def test_erf_in_float32(place: Backend) -> None:
    x = np.linspace(-6.0, 6.0, 5001, dtype=np.float32)
    value = place.to_host(erf(place.xp, place.from_host(x)))
    assert value.dtype == np.float32
    assert np.max(np.abs(value - [math.erf(v) for v in x])) < 2.5 * np.finfo(np.float32).eps


# --- values and derivatives --------------------------------------------------------------------------------------

def test_every_activation_is_in_the_golden_file(golden: dict[str, Any]) -> None:
    assert golden["activations"]["value"].keys() == ACTIVATIONS.keys(), "add it to make_golden.py"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_derivatives_are_those_of_pytorch(place: Backend, golden: dict[str, Any], name: str,
                                                     dtype: str) -> None:
    z = np.array(golden["activations"]["z"])
    a, derivative = forward_and_derivative(place, ACTIVATIONS[name], z.astype(dtype))
    # a few roundings of the largest number in the formula, and that of z itself
    limit = 4 * np.finfo(dtype).eps * np.maximum(1.0, np.abs(z))
    assert np.all(np.abs(a - golden["activations"]["value"][name]) <= limit)
    assert np.all(np.abs(derivative - golden["activations"]["derivative"][name]) <= limit)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_far_out_everything_is_finite_and_warns_of_nothing(place: Backend, name: str, dtype: str) -> None:
    z = np.array([[-1e4, -700.0, -104.0, -89.0, -40.0, 0.0], [1e4, 700.0, 104.0, 89.0, 40.0, -0.0]], dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        a, derivative = forward_and_derivative(place, ACTIVATIONS[name], z)
    assert np.all(np.isfinite(a))
    assert np.all(np.isfinite(derivative))
    assert np.max(np.abs(a)) <= 1.0508e4
    assert np.max(np.abs(derivative)) <= 1.7581  # selu's, below zero


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_infinite_input_gives_the_limit_or_nan_but_not_a_wrong_number(name: str) -> None:
    # a diverging run must be seen: what is not finite may come out finite only where the function has that limit
    limits = {"sigmoid": (0, 1), "tanh": (-1, 1), "hard_sigmoid": (0, 1), "hard_tanh": (-1, 1), "relu": (0, np.inf),
              "elu": (-1, np.inf), "selu": (-1.7580993408473766, np.inf), "softplus": (0, np.inf)}
    low, high = limits.get(name, (0.0 if name in ("gelu", "gelu_tanh", "silu", "mish") else -np.inf, np.inf))
    with np.errstate(invalid="ignore"):
        a = ACTIVATIONS[name].forward(np, np.array([-np.inf, np.inf, np.nan]))
    assert np.isnan(a[2])
    assert np.isnan(a[0]) or a[0] == low
    assert np.isnan(a[1]) or a[1] == high


def test_sigmoid_and_softplus_keep_their_digits_where_they_are_small(place: Backend) -> None:
    z = np.linspace(-700.0, -40.0, 200)
    expected = [math.exp(v) for v in z]  # to the last bit: the next term is exp(2 z)
    for function in (sigmoid, softplus):
        np.testing.assert_allclose(place.to_host(function(place.xp, place.from_host(z))), expected, rtol=1e-15)
    derivative = ACTIVATIONS["softplus"].derivative(place.xp, softplus(place.xp, place.from_host(z)))
    np.testing.assert_allclose(place.to_host(derivative), expected, rtol=1e-15)


def test_leaky_relu_and_elu_take_their_parameters(place: Backend) -> None:
    z = np.array([-2.0, -0.5, 0.5, 2.0])
    a, derivative = forward_and_derivative(place, leaky_relu(0.25), z)
    assert np.array_equal(a, [-0.5, -0.125, 0.5, 2.0])
    assert np.array_equal(derivative, [0.25, 0.25, 1.0, 1.0])
    a, derivative = forward_and_derivative(place, elu(0.5), z)
    np.testing.assert_allclose(a, [0.5 * math.expm1(-2.0), 0.5 * math.expm1(-0.5), 0.5, 2.0], rtol=1e-15)
    np.testing.assert_allclose(derivative, [0.5 * math.exp(-2.0), 0.5 * math.exp(-0.5), 1.0, 1.0], rtol=1e-15)


def test_at_a_kink_the_derivative_is_that_of_one_side() -> None:
    for name, low, high in (("relu", 0.0, 1.0), ("leaky_relu", 0.01, 1.0), ("elu", 1.0, 1.0), ("hard_tanh", 1.0, 1.0)):
        derivative = forward_and_derivative(resolve("numpy"), ACTIVATIONS[name], np.zeros(1))[1][0]
        assert derivative in (low, high)
