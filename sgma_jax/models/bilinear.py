"""A bilinear function with a form of its own for CPUs, chosen for the platform that a program is lowered for.

XLA's grouped and strided convolutions are many times slower on a CPU than other ways to the same numbers
(docs/benchmarks.md).
A primitive of JAX holds both forms, and each platform's compiler is given its own.
A step that is lowered for a TPU holds nothing of a CPU's, wherever it is lowered.
Derivatives of every kind and order follow from bilinearity.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

Form = Callable[..., Any]


def bilinear(name: str, plain: Form, cpu: Form, cpu_by_left: Form, cpu_by_right: Form) -> Form:
    """Return `plain(left, right, **static)` as a function that a CPU computes by `cpu`.

    `plain` is linear in each of its two arrays; keyword arguments are static and hashable.
    `cpu_by_left(cotangent, right, shape=..., **static)` and `cpu_by_right(left, cotangent, shape=..., **static)` are
    the transposes on a CPU: the cotangents of `left` and of `right`, of that shape.
    Elsewhere XLA derives them from `plain`.
    """

    def by_left(cotangent: Array, right: Array, *, shape: tuple[int, ...], **static: Any) -> Any:
        return transposed(lambda x: plain(x, right, **static), cotangent, shape)

    def by_right(left: Array, cotangent: Array, *, shape: tuple[int, ...], **static: Any) -> Any:
        return transposed(lambda k: plain(left, k, **static), cotangent, shape)

    forward = _primitive(name, plain, cpu)
    to_left = _primitive(f"{name}_by_left", by_left, cpu_by_left)
    to_right = _primitive(f"{name}_by_right", by_right, cpu_by_right)

    def left_of(cotangent: Any, right: Any, left: Any, shape: Any = None, **static: Any) -> Any:
        return to_left.bind(*_alike(cotangent, right), shape=left.aval.shape, **static)

    def right_of(left: Any, cotangent: Any, right: Any, shape: Any = None, **static: Any) -> Any:
        return to_right.bind(*_alike(left, cotangent), shape=right.aval.shape, **static)

    def product_of(left: Any, right: Any, shape: Any = None, **static: Any) -> Any:
        return forward.bind(*_alike(left, right), **static)

    # Of (left, right, product) each of the three maps two to a cotangent of the third, so they are closed under
    # transposition.
    _transposes(forward, lambda ct, x, k, s: left_of(ct, k, x, **s), lambda ct, x, k, s: right_of(x, ct, k, **s))
    _transposes(to_left, lambda ct, z, k, s: product_of(ct, k, **s), lambda ct, z, k, s: right_of(ct, z, k, **s))
    _transposes(to_right, lambda ct, x, z, s: left_of(z, ct, x, **s), lambda ct, x, z, s: product_of(x, ct, **s))
    return lambda left, right, **static: forward.bind(*_alike(left, right), **static)


def transposed(linear: Form, cotangent: Array, shape: tuple[int, ...]) -> Any:
    """Return the cotangent of the argument, an array of `shape`, of a linear function.

    The argument varies over the same devices as the cotangent: else its cotangent would be summed over them.
    """
    argument = jax.eval_shape(lambda x: jnp.broadcast_to(x.reshape(-1)[0], shape), cotangent)
    return jax.linear_transpose(linear, argument)(cotangent)[0]


def _primitive(name: str, plain: Form, cpu: Form) -> Primitive:
    """Return a primitive of two arrays with its rules of evaluation, lowering, batching and forward derivatives."""
    primitive = Primitive(name)

    def shape(left: Any, right: Any, **static: Any) -> Any:
        structs = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (left, right))
        out = jax.eval_shape(lambda x, y: plain(x, y, **static), *structs)
        return left.update(shape=out.shape, dtype=out.dtype, weak_type=False)  # and varies over the same devices

    def derivative(primals: Any, tangents: Any, **static: Any) -> Any:
        left, right = primals
        terms = [
            primitive.bind(*_alike(x, y), **static)
            for x, y in ((tangents[0], right), (left, tangents[1]))
            if not isinstance(x, ad.Zero) and not isinstance(y, ad.Zero)
        ]
        return primitive.bind(left, right, **static), terms[0] if len(terms) == 1 else jnp.add(*terms)

    def over_a_batch(arguments: Any, axes: Any, **static: Any) -> Any:
        return jax.vmap(lambda x, y: plain(x, y, **static), in_axes=axes)(*arguments), 0

    @functools.cache
    def compiled(**static: Any) -> Any:
        return jax.jit(lambda x, y: primitive.bind(x, y, **static))

    def evaluate(left: Any, right: Any, **static: Any) -> Any:
        form = functools.partial(plain, **static) if jax.config.jax_disable_jit else compiled(**static)  # type: ignore[attr-defined]
        return form(left, right)

    primitive.def_impl(evaluate)
    primitive.def_abstract_eval(shape)
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(cpu, multiple_results=False), platform="cpu")
    ad.primitive_jvps[primitive] = derivative
    batching.primitive_batchers[primitive] = over_a_batch
    return primitive


def _transposes(primitive: Primitive, by_left: Form, by_right: Form) -> None:
    """Give a primitive its transposition: rules take the cotangent, both arguments and the static ones."""

    def rule(cotangent: Any, left: Any, right: Any, **static: Any) -> Any:
        if isinstance(cotangent, ad.Zero):
            return None, None
        if ad.is_undefined_primal(left):
            return by_left(cotangent, left, right, static), None
        return None, by_right(cotangent, left, right, static)

    ad.primitive_transposes[primitive] = rule


def _alike(left: Any, right: Any) -> tuple[Any, Any]:
    """Return both arrays as varying over the same devices of `jax.shard_map`, which primitives of JAX see to."""
    axes = [_varying(x) for x in (left, right)]
    both = axes[0] | axes[1]
    cast = [
        lax.pcast(x, tuple(sorted(both - own)), to="varying") if both - own else x
        for x, own in zip((left, right), axes, strict=True)
    ]
    return cast[0], cast[1]


def _varying(x: Any) -> frozenset[str]:
    """Return the axes of the mesh over which an array differs between devices."""
    kind = jax.typeof(x)
    axes: frozenset[str] = kind.manual_axis_type.varying
    return axes
