"""What keys of a config may hold: numbers as YAML writes them, and sections of strict, frozen, typed keys."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Strict


def _number(value: Any) -> Any:
    """PyYAML reads 1e-3 as a string: text that is a number becomes one; booleans are not numbers."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {value}")
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"expected a number, got {value!r}") from None
    return value


def _whole(value: Any) -> Any:
    """1e6 and 1.0e6 are whole numbers; 1.5 is not."""
    number = _number(value)
    if isinstance(number, float):
        if not number.is_integer():
            raise ValueError(f"expected a whole number, got {value!r}")
        return int(number)
    return number


Float = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[Float, Field(gt=0)]
NonNegative = Annotated[Float, Field(ge=0)]
Fraction = Annotated[Float, Field(ge=0, le=1)]
Int = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[Int, Field(ge=1)]
Whole = Annotated[Int, Field(ge=0)]
Flag = Annotated[bool, Strict()]
Path = Annotated[str, Field(min_length=1)]
Beta = Annotated[Float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Unknown keys are errors, values are fixed once read, and a field's docstring is its description."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def tagged_by(key: str, default: str, kind: Callable[[str], str] = str) -> Discriminator:
    """Unions are told apart by one key, which has a default."""

    def read(value: Any) -> str:
        found = value.get(key, default) if isinstance(value, dict) else getattr(value, key, default)
        return kind(str(found))

    return Discriminator(read)
