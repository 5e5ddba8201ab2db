"""Finds the big tensors of a traced function that a GPU would keep in the memory of the host.

TensorFlow's Linux package registers its GPU kernels on machines without a GPU too, with the types
they take and the arguments they expect in host memory. An operation without a kernel for its types
runs on the CPU; int32 arithmetic has kernels that compute on the CPU. Either way a big tensor
crosses the bus in every step.

This module reads TensorFlow's private kernel registry, so it belongs to the tests, not to the
package. A GPU is not needed; on one, a profile shows the same copies as MemcpyD2H and MemcpyH2D.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.framework import kernels, op_def_registry

BIG = 1_000_000
"""Elements from which a tensor counts as big."""

VOLUME_RANK = 3
"""A tensor of this rank or more with an unknown extent counts as big too: it is a volume, unless
it is computed from shapes alone, as the positions of windows are."""

NEVER_RUN = {"Placeholder", "_Arg", "_Retval", "NoOp"}
"""Operations that stand for arguments and results of functions."""

STATIC = {"Const", "Shape", "VarHandleOp", "BroadcastGradientArgs"}
"""Operations whose results TensorFlow computes when it traces or optimises the graph."""


class Audit(NamedTuple):
    """The big tensors of a function and of all functions it calls.

    Attributes:
        on_host: name of each tensor in host memory -> its bytes, 0 if an extent is unknown.
        waits: tensors of any size that a GPU holds and an operation then reads from host memory:
            the host waits for the GPU. Inputs of branches and loops are not counted.
        casts: number of big tensors that a `Cast` writes.
        transposes: number of big tensors that a `Transpose` writes.
    """

    on_host: dict[str, int]
    waits: list[str]
    casts: int
    transposes: int

    @property
    def megabytes(self) -> float:
        """Sum of `on_host` in units of 10^6 bytes."""
        return sum(self.on_host.values()) / 1e6


def audit(function: Any) -> Audit:
    """Audits a traced function.

    Args:
        function: a concrete function. Its device placements are ignored: the answer is for a GPU
            that runs everything it has kernels for.
    """
    on_host, waits, written = {}, [], []
    for graph in _graphs(function.graph, set()):
        for operation in graph.get_operations():
            if operation.type in NEVER_RUN or _function_attributes(operation.type):
                continue
            written += [operation.type for tensor in operation.outputs if _is_big(tensor)]
            inputs, outputs = _host_tensors(operation)
            for tensor in filter(_is_big, inputs + outputs):
                on_host[f"{graph.name}: {_describe(tensor)}"] = _bytes(tensor)
            waits += [
                f"{_describe(tensor)} -> {operation.type}"
                for tensor in inputs
                if _is_computed_on_gpu(tensor)
            ]
    return Audit(on_host, waits, written.count("Cast"), written.count("Transpose"))


def _graphs(graph, seen) -> Iterator[Any]:
    """Yields the graph, and those of the functions that are called in it, each once."""
    yield graph
    for operation in graph.get_operations():
        for attribute in _function_attributes(operation.type):
            value = operation.node_def.attr[attribute]
            for function in [value.func, *value.list.func]:
                if function.name and function.name not in seen:
                    seen.add(function.name)
                    yield from _graphs(graph._get_function(function.name).graph, seen)


@functools.cache
def _function_attributes(operation_type):
    """Attributes of calls, branches and loops, which name functions."""
    definition = op_def_registry.get(operation_type)
    attributes = definition.attr if definition else []
    return [each.name for each in attributes if each.type in ("func", "list(func)")]


def _host_tensors(operation):
    """The inputs and the outputs of an operation that are in host memory while a GPU trains."""
    inputs, outputs = list(operation.inputs), list(operation.outputs)
    in_host_memory = _host_arguments(operation)
    if in_host_memory is None:
        return inputs, outputs
    if not in_host_memory:
        return [], []
    definition = operation.op_def
    return tuple(
        [
            tensor
            for tensor, name in zip(tensors, _argument_names(arguments, operation), strict=True)
            if name in in_host_memory
        ]
        for tensors, arguments in ((inputs, definition.input_arg), (outputs, definition.output_arg))
    )


def _is_computed_on_gpu(tensor):
    """Whether a GPU computes the tensor from more than constants and shapes."""
    producer = tensor.op
    if producer.type in NEVER_RUN:
        return tensor.dtype.is_floating or tensor.dtype in (tf.int64, tf.uint8)
    if _function_attributes(producer.type):
        return False
    if not _is_computed(producer):
        return False
    _, on_host = _host_tensors(producer)
    return all(tensor is not other for other in on_host)


def _is_computed(operation):
    """Whether the results of an operation depend on values, not only on constants and shapes."""
    pending, seen = [operation], set()
    while pending:
        each = pending.pop()
        if each.type in NEVER_RUN:
            return True
        if id(each) not in seen and each.type not in STATIC:
            seen.add(id(each))
            pending += [tensor.op for tensor in each.inputs]
    return False


def _host_arguments(operation):
    """Arguments in host memory of the GPU kernel for the operation's types; None without one."""
    names = {each.name for kernel in _gpu_kernels(operation.type) for each in kernel.constraint}
    types = {}
    for name in names:
        value = operation.get_attr(name)
        types[name] = frozenset(value if isinstance(value, list) else [value])
    return _kernel_arguments(operation.type, frozenset(types.items()))


@functools.cache
def _kernel_arguments(operation_type, types):
    types = dict(types)
    for kernel in _gpu_kernels(operation_type):
        if all(
            types[each.name] <= {*map(tf.as_dtype, each.allowed_values.list.type)}
            for each in kernel.constraint
        ):
            return set(kernel.host_memory_arg)
    return None


@functools.cache
def _gpu_kernels(operation_type):
    """Kernels for GPUs, then those for any device."""
    registered = kernels.get_registered_kernels_for_op(operation_type).kernel
    return [
        kernel
        for device in ("GPU", "DEFAULT")
        for kernel in registered
        if kernel.device_type == device and not kernel.label
    ]


def _argument_names(arguments, operation):
    """One name per tensor; an argument can be a list of tensors."""
    for argument in arguments:
        count = 1
        if argument.number_attr:
            count = operation.get_attr(argument.number_attr)
        elif argument.type_list_attr:
            count = len(operation.get_attr(argument.type_list_attr))
        yield from [argument.name] * count


def _describe(tensor):
    return f"{tensor.op.type} {tensor.dtype.name} {tensor.shape} {tensor.name}"


def _is_big(tensor):
    shape = tensor.shape
    if shape.is_fully_defined():
        return math.prod(shape) >= BIG
    return (shape.rank is None or shape.rank >= VOLUME_RANK) and _is_computed(tensor.op)


def _bytes(tensor):
    return math.prod(tensor.shape) * tensor.dtype.size if tensor.shape.is_fully_defined() else 0
