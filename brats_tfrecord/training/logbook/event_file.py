"""What TensorBoard reads: one file a session, made so that epochs trained again show once."""

import time
from pathlib import Path

import tensorflow as tf

Event, Summary, SessionLog = tf.compat.v1.Event, tf.compat.v1.Summary, tf.compat.v1.SessionLog


class EventFile:
    """Scalars and pictures of one session.

    It begins with the mark of a restart, at which TensorBoard drops what it has of that step and
    later ones: they are of a session that was killed before their checkpoint was finished.
    `tf.summary`, which lost the `purge_step` of earlier versions, cannot write that mark. The
    first session has it too, since TensorBoard does not count the first it meets.
    """

    def __init__(self, folder, first_step):
        """Opens a new file in `folder`, for steps from `first_step` on."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard looks for "tfevents" in a name, and reads in the order of the names.
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        self._writer = tf.io.TFRecordWriter(
            str(folder / f"events.out.tfevents.{seconds:010d}.{nanoseconds:09d}")
        )
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step, values):
        """Writes `values`, a dict from tag to number; a slash in a tag ends its group's name."""
        self._write(
            step=step,
            summary=Summary(
                value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            ),
        )

    def images(self, step, group, images):
        """Writes `images`, uint8 RGB [N, H, W, 3], as group/1 to group/N."""
        _, height, width, _ = images.shape
        self._write(
            step=step,
            summary=Summary(
                value=[
                    Summary.Value(
                        tag=f"{group}/{number}",
                        image=Summary.Image(
                            height=height,
                            width=width,
                            colorspace=3,
                            encoded_image_string=tf.io.encode_png(image).numpy(),
                        ),
                    )
                    for number, image in enumerate(images, 1)
                ]
            ),
        )

    def _write(self, **content):
        event = Event(wall_time=time.time(), **content)
        self._writer.write(event.SerializeToString())
        self._writer.flush()
