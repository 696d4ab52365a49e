"""What each client is asked, and what its user is shown, in words that all of them share."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict

QUESTION = "Count from 1 to 40."
"""What the built-in model always answers in the same words, whatever of its prompt is cached."""
OTHER_QUESTION = "Name two numbers."
MAX_TOKENS = 9


class City(BaseModel):
    """A city."""

    model_config = ConfigDict(extra="forbid")

    city: str


WEATHER = "get_weather"
WEATHER_IS = "The weather in a city."
WEATHER_QUESTION = "What is the weather in Paris?"
SUNNY = "Sunny, 21 degrees."
CITY_QUESTION = "The capital of France, as JSON."
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


class Said(NamedTuple):
    """An answer as its client shows it; `prompt` is all of the prompt, of which `cached` was read from a cache."""

    text: str
    prompt: int
    cached: int
    output: int
    tier: str
    """The tier that served, in the client's own words."""


class Called(NamedTuple):
    """A walk with a tool: what was called, and what the model said to its result."""

    name: str
    arguments: dict[str, Any]
    text: str


class Failed(Exception):
    """A program ended with an error; what it said."""


class Client(ABC):
    """A client library with a base URL and a project's key, and nothing else of ours.

    `retries` None leaves its own retries as they are; 0 is none.
    """

    name: ClassVar[str]
    tier: ClassVar[str] = "flex"
    """What its own parameter for the tier is given."""
    key_tier: ClassVar[str | None] = None
    """The default tier of its key."""
    served: ClassVar[str] = "flex"
    told: ClassVar[str] = "flex"
    """What `Said.tier` is then."""
    marks: ClassVar[bool] = True
    """Whether it can mark a system prompt as worth caching; else the gateway finds by itself what came before."""
    refused: ClassVar[type[Exception]]
    """What a throttle is once it doesn't try again."""
    says: ClassVar[str] = "The project's quota on this model is used up: 0 concurrent sequences"
    """How that explains itself."""
    gives_up: ClassVar[bool] = True
    """Whether it tries no more where it is told that no wait can help; else it does so in vain."""
    refusals: ClassVar[int] = 1
    """How many it meets in the test: as many as it takes to tell the gateway's waits from its own."""

    def __init__(self, url: str, key: str, retries: int | None = None) -> None:
        self.url = url
        self.key = key
        self.retries = retries

    @abstractmethod
    def chat(self, question: str, system: str | None = None, tier: str | None = None) -> Said:
        """A whole answer, of `MAX_TOKENS` and greedy; `system` is marked as worth caching."""

    @abstractmethod
    def stream(self, question: str) -> list[str]:
        """The same answer, in the pieces in which it came."""

    @abstractmethod
    def call_tool(self) -> Called:
        """`WEATHER_QUESTION` with the tool `WEATHER`, which must be called, and then the result, `SUNNY`, given back."""

    @abstractmethod
    def structured(self) -> object:
        """`CITY_QUESTION`, answered as a `City`."""
