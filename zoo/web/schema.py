"""Requests and answers as the server's OpenAPI document describes them; `to_dict` of the results, field by field."""

from typing import Generic, TypeVar

from pydantic import BaseModel, Field

__all__ = ["ANSWERS", "Answers", "Classified", "Embedded", "Fault", "Health", "Model", "Prediction", "Refused"]

R = TypeVar("R")


class Fault(BaseModel):
    """Why a picture has no answer."""

    kind: str
    message: str
    hint: str | None


class Prediction(BaseModel):
    """One class of a picture."""

    label: str
    index: int = Field(ge=0)
    score: float = Field(ge=0, le=1.000001)


class Classified(BaseModel):
    """The best classes of a picture, best first; none where there is an error."""

    source: str
    predictions: list[Prediction]
    size: list[int] | None
    note: str | None
    error: Fault | None


class Embedded(BaseModel):
    """The features of a picture; none where there is an error."""

    source: str
    vector: list[float]
    size: list[int] | None
    note: str | None
    error: Fault | None


class Answers(BaseModel, Generic[R]):
    """One result a picture, in the order of the request."""

    model: str
    results: list[R]


class Refused(BaseModel):
    """Why a request has no answer."""

    detail: str


class Health(BaseModel):
    """Whether pictures are taken."""

    status: str


class Model(BaseModel):
    """What is served, and within which limits."""

    name: str
    task: str
    summary: str
    license: str
    input_size: list[int]
    labels: list[str] | None
    max_bytes: int
    max_pictures: int
    max_pixels: int


ANSWERS: dict[str, type[BaseModel]] = {"classify": Answers[Classified], "embed": Answers[Embedded]}
