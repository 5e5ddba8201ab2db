"""Agreement between the processes of a multiworker run.

With MirroredStrategy there is one process, which is the chief and always agrees with itself.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from brats_tfrecord.errors import InputError

_LONGEST_TEXT = 2000
"""Bytes of an error message that other processes get to know."""

_BLOCK = 4096
"""Numbers that are summed at once. TensorFlow traces a graph for every shape, so there is one."""


class Peers:
    """The processes that train together, as seen from one of them.

    Attributes:
        count: number of processes.
        chief: whether this process is the one that writes files and prints.
        name: this process as messages name it, such as "worker 1".
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        """Reads the cluster from a strategy of `devices.make_strategy`."""
        resolver = strategy.cluster_resolver
        jobs = resolver.cluster_spec().as_dict() if resolver else {"worker": ["localhost"]}
        tasks = [
            (job, index) for job in ("chief", "worker") for index in range(len(jobs.get(job, ())))
        ]
        self._rank = tasks.index((resolver.task_type, resolver.task_id)) if resolver else 0
        self.count = len(tasks)
        self.name = "{} {}".format(*tasks[self._rank])
        self.chief = self._rank == 0
        self._reduce_sum = tf.function(
            lambda values: strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)
        )

    def anyone(self, *flags: object) -> list[bool]:
        """Tells for each flag whether it is true in any process.

        All processes must call it at the same point of the program.
        """
        if self.count == 1:
            return [bool(flag) for flag in flags]
        return [bool(total) for total in self.sum([bool(flag) for flag in flags])]

    def sum(self, values: object) -> np.ndarray:
        """Sums numbers over the processes, element by element.

        All processes must call it at the same point of the program, with arrays of one shape.

        Args:
            values: array of numbers; integers must be below 2**53.

        Returns:
            float64 array of the same shape.
        """
        array = np.asarray(values, np.float64)
        if self.count == 1:
            return array
        blocks = np.zeros((-(-array.size // _BLOCK), _BLOCK))
        blocks.flat[: array.size] = array.flat
        totals = [self._reduce_sum(tf.constant(block)).numpy() for block in blocks]
        return np.ravel(totals)[: array.size].reshape(array.shape)

    def require_same(self, values: Mapping[str, object]) -> None:
        """Raises `InputError` in all processes if the values differ between them.

        Args:
            values: name -> value; two values are the same if their `str` is. The names must be
                the same in all processes.
        """
        if self.count == 1:
            return
        digests = np.zeros((self.count, len(values)))
        digests[self._rank] = [_digest(value) for value in values.values()]
        same = np.ptp(self.sum(digests), axis=0) == 0
        differing = [
            f"{name} (here {value})"
            for (name, value), is_same in zip(values.items(), same)
            if not is_same
        ]
        if differing:
            raise InputError(
                f"the workers differ in {', '.join(differing)}; run the same command "
                "on all, on the same data and one --model_dir that all share"
            )

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Raises an `InputError` in all processes if the block raises one in any of them.

        Each process gets its own error if it has one, and else the message of the others.
        """
        error = None
        try:
            yield
        except InputError as own_error:
            error = own_error
        if self.anyone(error)[0]:
            messages = self._share(f"{self.name}: {error}" if error else "")
            raise error or InputError("; ".join(dict.fromkeys(filter(None, messages))))

    def _share(self, text: str) -> list[str]:
        """Returns the texts of all processes, each cut after `_LONGEST_TEXT` bytes."""
        codes = np.zeros((self.count, _LONGEST_TEXT))
        data = np.frombuffer(text.encode()[:_LONGEST_TEXT], np.uint8)
        codes[self._rank, : len(data)] = data
        rows = self.sum(codes).astype(np.uint8)
        return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def _digest(value: object) -> int:
    """A number below 2**48 computed from the `str` of a value."""
    return int(hashlib.sha256(str(value).encode()).hexdigest()[:12], 16)
