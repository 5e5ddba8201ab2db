"""What the processes of a multiworker run tell each other: flags, agreement, loss of a peer.

With MirroredStrategy there is one process, which is the chief and agrees with itself.
"""

import contextlib
import hashlib
import re

import numpy as np
import tensorflow as tf

from brats_tfrecord.errors import InputError, Stopped

_FROM_A_PEER = re.compile(r"[Cc]ollective ops is aborted|remote target|check alive failed")
_REASON = re.compile(r"aborted by: (.*)")


class Peers:
    """This process and those it trains with.

    Attributes:
        count: of processes.
        chief: whether this is the one that writes and prints.
    """

    def __init__(self, strategy):
        """Of a strategy from `devices.make_strategy`."""
        self._strategy = strategy
        resolver = strategy.cluster_resolver
        jobs = resolver.cluster_spec().as_dict() if resolver else {"worker": ["here"]}
        tasks = [
            (kind, index)
            for kind in ("chief", "worker")
            for index in range(len(jobs.get(kind, ())))
        ]
        self._place = tasks.index((resolver.task_type, resolver.task_id)) if resolver else 0
        self.count, self.chief = len(tasks), self._place == 0
        self._added = tf.function(
            lambda values: strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)
        )

    def anyone(self, *flags):
        """For each flag, whether it is true in any process; all must call it at the same place."""
        if self.count == 1:
            return [bool(flag) for flag in flags]
        return [bool(total) for total in self._sum([int(bool(flag)) for flag in flags])]

    def require_same(self, values):
        """Raises `InputError` in all processes if these values are not the same in each.

        Args:
            values: dict of name -> what is known by its `str`; the same names everywhere.
        """
        if self.count == 1:
            return
        table = np.zeros((self.count, len(values)), np.int64)
        table[self._place] = [_digest(value) for value in values.values()]
        same = np.ptp(self._sum(table), axis=0) == 0
        differing = [
            f"{name} (here {value})"
            for (name, value), agreed in zip(values.items(), same)
            if not agreed
        ]
        if differing:
            raise InputError(
                f"the workers differ in {', '.join(differing)}; run the same command "
                "on all, on the same data and one --model_dir that all share"
            )

    @contextlib.contextmanager
    def together(self):
        """Makes an `InputError` that the block meets in one process one of all."""
        error = None
        try:
            yield
        except InputError as own:
            error = own
        if self.anyone(error)[0]:
            raise error or InputError("a peer refused this run; its own message says why")

    @contextlib.contextmanager
    def stopping_without_peer(self):
        """Makes `Stopped` of what TensorFlow raises when a peer is lost."""
        try:
            yield
        except tf.errors.OpError as error:
            if self.count == 1 or not _tells_of_a_peer(error):
                raise
            found = _REASON.search(error.message)
            reason = found[1] if found else error.message.strip().splitlines()[-1]
            raise Stopped(
                f"a peer was lost ({reason.strip().split('. ')[0][:200]}); run the same "
                "command again on all workers to go on"
            ) from error

    def _sum(self, values):
        """Sums an array of int64 over the processes, place by place."""
        return self._added(tf.constant(values, tf.int64)).numpy()


def _digest(value):
    """A number below 2**48 of a value's `str`."""
    return int(hashlib.sha256(str(value).encode()).hexdigest()[:12], 16)


def _tells_of_a_peer(error):
    return isinstance(error, tf.errors.UnavailableError) or bool(_FROM_A_PEER.search(error.message))
