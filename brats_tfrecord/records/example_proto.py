"""Declares `tf.train.Example` as a protocol buffer, so that workers need no TensorFlow.

The messages and field numbers are those of TensorFlow's example.proto and feature.proto. They have
a descriptor pool of their own, so that they do not clash with TensorFlow's in the same process.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "brats_tfrecord.example"


def _message(name, *fields):
    return descriptor_pb2.DescriptorProto(name=name, field=fields)


def _optional(name, number, kind, message=None):
    return _FIELD(
        name=name,
        number=number,
        type=kind,
        label=_FIELD.LABEL_OPTIONAL,
        type_name=message and f".{_PACKAGE}.{message}",
    )


def _repeated(name, number, kind, message=None):
    field = _optional(name, number, kind, message)
    field.label = _FIELD.LABEL_REPEATED
    return field


def _example_class():
    entry = _message(
        "FeatureEntry",
        _optional("key", 1, _FIELD.TYPE_STRING),
        _optional("value", 2, _FIELD.TYPE_MESSAGE, "Feature"),
    )
    entry.options.map_entry = True
    features = _message(
        "Features", _repeated("feature", 1, _FIELD.TYPE_MESSAGE, "Features.FeatureEntry")
    )
    features.nested_type.append(entry)
    feature = _message(
        "Feature",
        _optional("bytes_list", 1, _FIELD.TYPE_MESSAGE, "BytesList"),
        _optional("float_list", 2, _FIELD.TYPE_MESSAGE, "FloatList"),
        _optional("int64_list", 3, _FIELD.TYPE_MESSAGE, "Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(
        descriptor_pb2.FileDescriptorProto(
            name="brats_tfrecord/example.proto",
            package=_PACKAGE,
            syntax="proto3",
            message_type=[
                _message("BytesList", _repeated("value", 1, _FIELD.TYPE_BYTES)),
                _message("FloatList", _repeated("value", 1, _FIELD.TYPE_FLOAT)),
                _message("Int64List", _repeated("value", 1, _FIELD.TYPE_INT64)),
                feature,
                features,
                _message("Example", _optional("features", 1, _FIELD.TYPE_MESSAGE, "Features")),
            ],
        )
    )
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Example"))


Example = _example_class()
"""Message class; serialises to the same bytes as `tf.train.Example`."""
