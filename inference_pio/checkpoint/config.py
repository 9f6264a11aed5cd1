"""Typed reads of config.json that refuse what they do not know, so that no key changes the maths unseen."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from inference_pio.artifact.printable import listed, printable
from inference_pio.checkpoint.harmless_keys import HARMLESS_KEYS
from inference_pio.errors import BadInputError

__all__ = ["HARMLESS_KEYS", "ConfigReader"]

T = TypeVar("T", bool, int, float, str)

# No size of a model is larger, and float32, in which the maths is done, has no larger number.
MAX_INT = 2**31 - 1
MAX_FLOAT = (2 - 2**-23) * 2.0**127

_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


class ConfigReader:
    """Reads one JSON object key by key; `finish` refuses the keys that nothing has read.

    `null` counts as absent, and `is_null` tells the two apart. `need_*` raise `BadInputError` when the key is
    absent, `optional_*` return the default; all raise it for a value of the wrong type or outside its bounds.
    Nothing is coerced, but an integer is a number: `true` is not 1 and 32.0 is not 32. `ignored` names keys that
    the user vouches for, here and in every section.
    """

    def __init__(
        self, values: dict[str, Any], where: str = "config.json", ignored: frozenset[str] = frozenset()
    ) -> None:
        self.values = {key: value for key, value in values.items() if value is not None}
        self._nulls = frozenset(key for key, value in values.items() if value is None)
        self.where = where
        self._ignored = ignored
        self._consumed: set[str] = set()
        self._sections: dict[str, ConfigReader] = {}

    def need_int(self, key: str, minimum: int = 1, maximum: int | None = None) -> int:
        """An integer within the bounds, both included; without a maximum it is still below 2**31."""
        return self._bounded_int(key, self._need(key), minimum, maximum)

    @overload
    def optional_int(self, key: str, default: int, minimum: int = 1, maximum: int | None = None) -> int: ...

    @overload
    def optional_int(self, key: str, default: None, minimum: int = 1, maximum: int | None = None) -> int | None: ...

    def optional_int(self, key: str, default: int | None, minimum: int = 1, maximum: int | None = None) -> int | None:
        """As `need_int`, or the default."""
        value = self._take(key)
        return default if value is None else self._bounded_int(key, value, minimum, maximum)

    def need_float(
        self,
        key: str,
        minimum: float | None = None,
        maximum: float | None = None,
        exclusive_minimum: float | None = None,
    ) -> float:
        """A number within the bounds and the range of float32; `exclusive_minimum` is itself too small."""
        return self._bounded_float(key, self._need(key), minimum, maximum, exclusive_minimum)

    @overload
    def optional_float(
        self,
        key: str,
        default: float,
        minimum: float | None = None,
        maximum: float | None = None,
        exclusive_minimum: float | None = None,
    ) -> float: ...

    @overload
    def optional_float(
        self,
        key: str,
        default: None,
        minimum: float | None = None,
        maximum: float | None = None,
        exclusive_minimum: float | None = None,
    ) -> float | None: ...

    def optional_float(
        self,
        key: str,
        default: float | None,
        minimum: float | None = None,
        maximum: float | None = None,
        exclusive_minimum: float | None = None,
    ) -> float | None:
        """As `need_float`, or the default."""
        value = self._take(key)
        if value is None:
            return default
        return self._bounded_float(key, value, minimum, maximum, exclusive_minimum)

    def need_str(self, key: str) -> str:
        """A string that is not empty."""
        value = _typed(self._need(key), str, self._name(key))
        if not value:
            raise BadInputError(f"{self._name(key)} is empty")
        return value

    @overload
    def optional_str(self, key: str, default: str) -> str: ...

    @overload
    def optional_str(self, key: str, default: None) -> str | None: ...

    def optional_str(self, key: str, default: str | None) -> str | None:
        """A string, or the default."""
        value = self._take(key)
        return default if value is None else _typed(value, str, self._name(key))

    def optional_bool(self, key: str, default: bool) -> bool:
        """True or false, or the default."""
        value = self._take(key)
        return default if value is None else _typed(value, bool, self._name(key))

    def optional_list(self, key: str, of: type[T], length: int | None = None) -> list[T] | None:
        """A list of items of one type, of this length if one is given; None when the key is absent."""
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, list):
            raise BadInputError(f"{self._name(key)} is {printable(value)}, not a list")
        if length is not None and len(value) != length:
            raise BadInputError(f"{self._name(key)} has {len(value)} items; {length} are needed")
        return [_typed(item, of, f"item {index} of {self._name(key)}") for index, item in enumerate(value)]

    def expect(self, key: str, *allowed: bool | int | float | str) -> Any:
        """The value, which must be one of `allowed`; None when the key is absent."""
        value = self._take(key)
        if value is None or any(_same(value, choice) for choice in allowed):
            return value
        supported = " or ".join(printable(choice) for choice in allowed)
        raise BadInputError(f"{self._name(key)} is {printable(value)}; only {supported} is supported")

    def first_of(self, *keys: str) -> Any:
        """The value of a key with several spellings, or None; two that contradict each other are an error."""
        found = [(key, value) for key in keys if (value := self._take(key)) is not None]
        for key, value in found[1:]:
            if not _same(value, found[0][1]):
                raise BadInputError(
                    f"{self._name(found[0][0])} is {printable(found[0][1])} but {key} is {printable(value)}; "
                    "remove the wrong one"
                )
        return found[0][1] if found else None

    def is_null(self, key: str) -> bool:
        """Whether the key is there and null, which for some keys is another word than leaving it out."""
        return key in self._nulls

    def section(self, key: str) -> ConfigReader | None:
        """A nested object as a reader of its own, the same at every call; None when the key is absent."""
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise BadInputError(f"{self._name(key)} is {printable(value)}, not an object")
        if key not in self._sections:
            self._sections[key] = ConfigReader(value, f"{self.where}: {key}", self._ignored)
        return self._sections[key]

    def ignore(self, *keys: str) -> None:
        """Declares that these keys do not matter here, whatever their values."""
        self._consumed.update(keys)

    def finish(self, ignored: frozenset[str] = frozenset()) -> None:
        """Refuses, by name, every key that was neither read nor is harmless or ignored, unless it is empty.

        Sections are finished on their own, by whoever reads them.
        """
        known = self._consumed | HARMLESS_KEYS | self._ignored | ignored
        unknown = sorted(key for key, value in self.values.items() if key not in known and not _is_empty(value))
        if unknown:
            raise BadInputError(
                f"{self.where} has keys this architecture does not know: {listed(unknown)}; this may change "
                "the maths; if it does not, pass it with --ignore-config-key NAME"
            )

    def _take(self, key: str) -> Any:
        self._consumed.add(key)
        return self.values.get(key)

    def _need(self, key: str) -> Any:
        value = self._take(key)
        if value is None:
            raise BadInputError(f"{self._name(key)} is missing")
        return value

    def _name(self, key: str) -> str:
        return f"{self.where}: {key}"

    def _bounded_int(self, key: str, value: object, minimum: int, maximum: int | None) -> int:
        number = _typed(value, int, self._name(key))
        highest = MAX_INT if maximum is None else maximum
        if not minimum <= number <= highest:
            raise BadInputError(f"{self._name(key)} is {printable(number)}; it must be {minimum} to {highest}")
        return number

    def _bounded_float(
        self, key: str, value: object, minimum: float | None, maximum: float | None, above: float | None
    ) -> float:
        number = _typed(value, float, self._name(key))
        if minimum is not None and number < minimum:
            raise BadInputError(f"{self._name(key)} is {number}; it must be at least {minimum}")
        if maximum is not None and number > maximum:
            raise BadInputError(f"{self._name(key)} is {number}; it must be at most {maximum}")
        if above is not None and number <= above:
            raise BadInputError(f"{self._name(key)} is {number}; it must be above {above}")
        return number


def _typed(value: Any, kind: type[T], name: str) -> T:
    wanted = (int, float) if kind is float else (kind,)
    if type(value) not in wanted:
        raise BadInputError(f"{name} is {printable(value)}, not {_WORDS[kind]}")
    try:
        typed = kind(value)
    except OverflowError as fault:
        raise BadInputError(f"{name} is {printable(value)}, which is out of range") from fault
    if isinstance(typed, float) and not abs(typed) <= MAX_FLOAT:
        raise BadInputError(f"{name} is {typed}, not a finite number of float32")
    return typed


def _same(one: object, other: object) -> bool:
    """Equality in which true is not 1, but 0 is 0.0."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _is_empty(value: object) -> bool:
    return value is None or value is False or value in (0, "", [], {})
