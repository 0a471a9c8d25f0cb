"""The forms in which a type is written: this program's own, and others that it can read."""

from __future__ import annotations

from typing import Any, Callable, Optional

from .codec import Codec
from .errors import DeclareError, DecodeError
from .message import name_of, reads_of, writes_of
from .reflect import codec_of
from .schema import Schema

MAX_FORMS = 16
"""The most forms that one input takes, its own included."""


class Form:
    """One form: what it is made of, and how a payload of it becomes a message."""

    def __init__(self, codec: Codec, convert: Optional[Callable[[Any], Any]] = None) -> None:
        self.schema = Schema(codec.node)
        self._codec, self._convert = codec, convert

    def encode(self, value: Any, out: bytearray) -> None:
        """Writes a value of this form. Raises `EncodeError`."""
        self._codec.encode(value, out)

    def decode(self, payload: bytes) -> Any:
        """The message in a payload that is one value of this form and nothing else. Raises
        `DecodeError`, also for a value of which the program can make none of its own."""
        value, end = self._codec.decode(payload, 0)
        if end != len(payload):
            raise DecodeError(f"{len(payload) - end} bytes follow the end of the value")
        if self._convert is None:
            return value
        try:
            return self._convert(value)
        except Exception as error:
            shown = type(value).__name__
            raise DecodeError(f"no message can be made of this {shown}: {error}") from error


def forms_of(cls: type) -> list[Form]:
    """The forms in which a message is taken, its own first, then the others, best first.

    Raises `SchemaError` if one of them is no message, and `DeclareError` if they have not one name,
    are not all different, or are too many.
    """
    forms = [Form(codec_of(cls))]
    for other, convert in reads_of(cls).items():
        forms.append(Form(_codec(cls, other), convert))
    _check(cls, forms)
    return forms


def offers_of(cls: type) -> list[tuple[Form, Callable[[Any], Any]]]:
    """The forms in which a message is written besides its own, best first, and how they are made.
    Raises as `forms_of` does."""
    offers = [(Form(_codec(cls, other)), make) for other, make in writes_of(cls).items()]
    _check(cls, [Form(codec_of(cls)), *(form for form, _ in offers)])
    return offers


def _codec(cls: type, other: type) -> Codec:
    name = name_of(cls)
    if name_of(other) != name:
        raise DeclareError(f"{name!r} can't have a form {name_of(other)!r}, which has another name")
    return codec_of(other)


def _check(cls: type, forms: list[Form]) -> None:
    name = name_of(cls)
    if len(forms) > MAX_FORMS:
        raise DeclareError(f"{name!r} has more than {MAX_FORMS} forms")
    if len({form.schema.canonical for form in forms}) < len(forms):
        raise DeclareError(f"{name!r} has two forms that have the same schema")
