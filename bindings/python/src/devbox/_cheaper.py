"""Cheaper forms of helpers of the generated code, which every call and every callback goes through.

Each does what the one that it replaces does. What is saved is context managers made of generators, nested structures that are
zeroed one by one, and slices of pointers where one copy will do. The generated code comes from the same build as this file.
"""

import ctypes
from types import ModuleType


class _Bytes(ctypes.Structure):
    """As the generated `_UniffiForeignBytes`, with a pointer that Python's bytes become without a cast."""

    _fields_ = [("len", ctypes.c_int32), ("data", ctypes.c_char_p)]


def apply(generated: ModuleType) -> None:
    library = generated._UniffiLib
    status_type = generated._UniffiRustCallStatus
    buffer_type = generated._UniffiRustBuffer
    stream_type = generated._UniffiRustBufferStream
    check_status = generated._uniffi_check_call_status
    byref, string_at = ctypes.byref, ctypes.string_at
    free_buffer = library.ffi_devbox_ffi_rustbuffer_free
    # A function of its own: the generated one keeps its argument types.
    from_bytes = library["ffi_devbox_ffi_rustbuffer_from_bytes"]
    from_bytes.argtypes = (_Bytes, ctypes.POINTER(status_type))
    from_bytes.restype = buffer_type

    def call_with_error(converter, function, *arguments):
        # A structure is zeroed when it is made: success, and an empty buffer.
        status = status_type()
        result = function(*arguments, byref(status))
        if status.code:
            check_status(converter, status)
        return result

    def call(function, *arguments):
        return call_with_error(None, function, *arguments)

    def free(buffer) -> None:
        status = status_type()
        free_buffer(buffer, byref(status))
        if status.code:
            check_status(None, status)

    def content(buffer) -> bytes:
        length = buffer.len
        return string_at(buffer.data, length) if length else b""

    class Consumed:
        """A buffer that is read to its end and freed."""

        __slots__ = ("buffer", "stream")

        def __init__(self, buffer) -> None:
            self.buffer = buffer

        def __enter__(self):
            self.stream = stream_type.from_rust_buffer(self.buffer)
            return self.stream

        def __exit__(self, kind, _error, _trace) -> None:
            free(self.buffer)
            if kind is None and self.stream.remaining():
                raise RuntimeError(f"junk data left in buffer at end of consume_with_stream {self.stream.remaining()}")

    def number(size: int, signed: bool):
        def read_number(stream):
            start = stream.offset
            end = stream.offset = start + size
            if end > stream.len:
                raise generated.InternalError("read past end of rust buffer")
            return int.from_bytes(stream.data[start:end], "big", signed=signed)

        return read_number

    def lift_text(buffer) -> str:
        try:
            return content(buffer).decode("utf-8")
        finally:
            free(buffer)

    def lower_text(text: str):
        encoded = text.encode("utf-8")
        return call(from_bytes, _Bytes(len(encoded), encoded))

    generated._uniffi_rust_call_with_error = call_with_error
    generated._uniffi_rust_call = call
    status_type.default = staticmethod(status_type)
    buffer_type.free = free
    # A class would not be bound to the buffer.
    buffer_type.consume_with_stream = lambda buffer: Consumed(buffer)
    stream_type.from_rust_buffer = classmethod(lambda cls, buffer: cls(content(buffer), buffer.len))
    for bits in (8, 16, 32, 64):
        setattr(stream_type, f"read_i{bits}", number(bits // 8, True))
        setattr(stream_type, f"read_u{bits}", number(bits // 8, False))
    generated._UniffiFfiConverterString.lift = staticmethod(lift_text)
    generated._UniffiFfiConverterString.lower = staticmethod(lower_text)
