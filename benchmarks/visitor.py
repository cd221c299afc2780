"""A visitor of the app without a browser: Streamlit's own protocol over its websocket, as its page in a browser speaks it.

1. `arrive`: connect, ask for the page of an address, and note the widgets that it draws.
2. `slide`: move a slider of the sidebar by one step, with the values of all other widgets, and wait until the script ended.
3. `turn_to`: another page of the app.

Every answer says how long it took, how many bytes and charts came, which SAE was shown, and what went wrong.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetStates
from websockets.asyncio.client import ClientConnection, connect

PATIENCE = 120.0
"""Seconds after which an answer is given up, and counted as an error."""
SLIDERS = ("layer", "width", "l0")
"""Of the sidebar, by the field of `dmcore.ui.selection`."""


@dataclass
class Answer:
    """What came back for one request."""

    kind: str
    """`page`, or the field of the slider."""
    page: str
    sent: float
    """`time.monotonic()` of the request."""
    seconds: float = 0.0
    """Until the script ended and all that it drew was here."""
    n_bytes: int = 0
    n_charts: int = 0
    sae: str = ""
    """The id that the sidebar shows."""
    errors: list[str] = field(default_factory=list)
    """Exceptions and red boxes of the page, and answers that never came."""


@dataclass
class Slider:
    """A select slider as the page draws it."""

    id: str
    options: list[str]
    value: str


class Visitor:
    """One session. `url`: of the server, `http://...`; `rng` chooses the moves."""

    def __init__(self, url: str, rng: random.Random) -> None:
        self.url, self.rng = url, rng
        self.page, self.query = "", ""
        self.answers: list[Answer] = []
        self.pages: dict[str, str] = {}
        self._hash = ""
        self._widgets: dict[str, WidgetStates] = {}
        self._sliders: dict[str, Slider] = {}
        self._socket: ClientConnection | None = None

    async def arrive(self, page: str = "", **params: str) -> Answer:
        """Open a page at an address, as a link does."""
        self._socket = await connect(
            self.url.replace("http", "ws", 1) + "/_stcore/stream",
            subprotocols=["streamlit"],  # pyright: ignore[reportArgumentType]
            max_size=None,
            open_timeout=PATIENCE,
            ping_timeout=PATIENCE,
        )
        self.page, self.query = page, urlencode(params)
        return await self._ask("page")

    async def turn_to(self, page: str) -> Answer:
        """Another page, as a click in the navigation does: its address is empty, the session keeps the view."""
        self.page, self.query, self._hash = page, "", self.pages[page]
        self._widgets, self._sliders = {}, {}
        return await self._ask("page")

    async def slide(self) -> Answer | None:
        """Move one slider of the sidebar by one step; None if the page has none."""
        fields = [name for name in SLIDERS if name in self._sliders]
        if not fields:
            return None
        name = self.rng.choice(fields)
        slider = self._sliders[name]
        here = slider.options.index(slider.value)
        there = [i for i in (here - 1, here + 1) if 0 <= i < len(slider.options)]
        slider.value = slider.options[self.rng.choice(there)]
        states = WidgetStates()
        states.widgets.add(id=slider.id).string_array_value.data.append(slider.value)
        self._widgets[slider.id] = states
        return await self._ask(name)

    async def leave(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            await self._socket.close()

    async def _ask(self, kind: str) -> Answer:
        answer = Answer(kind, self.page or "overview", time.monotonic())
        self.answers.append(answer)
        message = BackMsg()
        state = message.rerun_script
        state.query_string, state.page_script_hash, state.page_name = self.query, self._hash, self.page
        state.context_info.url = f"{self.url}/{self.page}"
        state.context_info.timezone, state.context_info.locale = "UTC", "en"
        for widget in self._widgets.values():
            state.widget_states.MergeFrom(widget)
        try:
            assert self._socket is not None, "arrive first"
            await self._socket.send(message.SerializeToString())
            async with asyncio.timeout(PATIENCE):
                while not self._read(await self._socket.recv(), answer):
                    pass
        except Exception as error:
            answer.errors.append(f"{type(error).__name__}: {error}")
        answer.seconds = time.monotonic() - answer.sent
        return answer

    def _read(self, data: Any, answer: Answer) -> bool:
        """Take in one message; True if it is the end of the run."""
        answer.n_bytes += len(data)
        message = ForwardMsg()
        message.ParseFromString(data)
        kind = message.WhichOneof("type")
        if kind == "script_finished":
            return message.script_finished in (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_WITH_COMPILE_ERROR)
        if kind == "navigation":
            self.pages = {page.url_pathname: page.page_script_hash for page in message.navigation.app_pages}
        elif kind == "new_session":
            self._hash = message.new_session.page_script_hash
        elif kind == "page_info_changed":
            self.query = message.page_info_changed.query_string
        elif kind == "session_event" and message.session_event.WhichOneof("type") == "script_compilation_exception":
            answer.errors.append(message.session_event.script_compilation_exception.message)
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            self._note(message.delta.new_element, answer)
        return False

    def _note(self, element: Any, answer: Answer) -> None:
        kind = element.WhichOneof("type")
        if kind == "exception":
            answer.errors.append(f"{element.exception.type}: {element.exception.message}")
        elif kind == "alert" and element.alert.format == element.alert.ERROR:
            answer.errors.append(element.alert.body)
        elif kind in ("arrow_vega_lite_chart", "vega_lite_chart"):
            answer.n_charts += 1
        elif kind == "text":
            answer.sae = element.text.body
        elif kind == "slider":
            self._note_slider(element.slider)

    def _note_slider(self, slider: Any) -> None:
        name = slider.id.rpartition("control.")[2]
        if name not in SLIDERS:
            return
        options = list(slider.options)
        before = self._sliders.get(name)
        if slider.set_value:
            value = slider.raw_value[0]
        elif before is not None and before.value in options:
            value = before.value
        else:
            value = options[int(slider.default[0])]
        self._sliders[name] = Slider(slider.id, options, value)
        states = WidgetStates()
        states.widgets.add(id=slider.id).string_array_value.data.append(value)
        if before is not None:
            self._widgets.pop(before.id, None)
        self._widgets[slider.id] = states


async def wander(
    visitor: Visitor, moves: float, think: tuple[float, float], turn_every: int, until: float = 1e99
) -> None:
    """Slide, think, slide; now and then another page.

    Args:
        visitor: has arrived.
        moves: after so many it leaves.
        think: fewest and most seconds between an answer and the next move.
        turn_every: moves between two pages, on average; 0 stays on the page.
        until: `time.monotonic()` at which it leaves, if it has not.
    """
    pages = [page for page in visitor.pages if page in SLIDING]
    begun = len(visitor.answers)
    while len(visitor.answers) < begun + moves:
        pause = visitor.rng.uniform(*think)
        if time.monotonic() + pause > until:
            return
        await asyncio.sleep(pause)
        turn = turn_every and visitor.rng.random() < 1 / turn_every
        if turn or await visitor.slide() is None:
            await visitor.turn_to(visitor.rng.choice([page for page in pages if page != visitor.page]))


SLIDING = ("", "regression", "scaling", "nonlinear", "reduction", "downstream")
"""Pages, by their address, on which every SAE has something to show."""
