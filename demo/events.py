"""What the tabs' events share: queues, messages in place of pop-ups, Stop, and answers that come too late.

Only `demo.ui` and the tabs use it.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr
import pandas as pd

from demo import catalogue, service
from demo.errors import Stopped
from demo.workspace import Workspace

NETWORK = {"concurrency_id": "network", "concurrency_limit": 1}  # one image at a time goes through a network
LIGHT = {"concurrency_id": "light", "concurrency_limit": 2}
PRIVATE = {"api_visibility": "private"}
QUIET = {"show_progress": "hidden"}
# Not outside the queue: Gradio tells the browser of changed states only with answers of queued events.
AT_ONCE = {"concurrency_id": "at once", "concurrency_limit": 20, **QUIET, **PRIVATE}
EACH = {"trigger_mode": "multiple", **AT_ONCE}  # no change is left out
# Of many changes, the last one always runs. Gradio then repeats all that hangs on that event, one after the other: two
# such handlers on one event would wake each other for ever, so the second one follows another handler, by `then`.
NEWEST = {"trigger_mode": "always_last", **QUIET, **LIGHT, **PRIVATE}
WRITING = {"trigger_mode": "always_last", "concurrency_id": "writing", "concurrency_limit": 1, **QUIET, **PRIVATE}
STAMPED = "(_, ...values) => [performance.now(), ...values]"  # in the browser: when an event was sent
PICTURE = {"format": "png", "type": "filepath", "interactive": False, "buttons": ["fullscreen"]}
PROGRESS = gr.Progress()
_DECIMALS = {"PSNR": 2, "SSIM": 4, "LPIPS": 4, "Seconds": 2, "Params": 2, "Size": 2, "Time": 1}  # in tables
_LEVEL_HINT = "A camera's photograph: around 12. 25 is plain to see, 50 is heavy."
_STRENGTH_HINT = "Texture lost: less. Noise left: more than 1, or a higher level under Advanced."
DISABLE = "() => ({__type__: 'update', interactive: false})"  # in the browser, before the server has answered


def notice(text: str = "") -> dict:
    """Return an update of a tab's line for messages, which is hidden while there is none."""
    return gr.update(value=text, visible=bool(text))


class Tab:
    """What a tab that runs networks knows of each session: its folders, what its page asks for now, what is to stop.

    An answer can be late: while it was made, its image was removed. What is no longer asked for is not shown.
    """

    controls: Callable = tuple  # what handlers work with, made of the values of all controls

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.runs: dict[str, Path] = {}  # the folder of the work that a session waits for
        self._newest: dict[str, tuple[float, tuple]] = {}

    def note(self, request: gr.Request, stamp: float, values: tuple) -> tuple:
        """Note and return the tab's controls; requests overtake each other, so the browser's time decides."""
        controls = self.controls(values)
        if stamp >= self._newest.get(request.session_hash, (0.0, ()))[0]:
            self._newest[request.session_hash] = stamp, controls
        return controls

    def still(self, request: gr.Request, controls: tuple, key: Callable = tuple) -> bool:
        """Whether the controls still say what `key` takes of these values."""
        _, newest = self._newest.get(request.session_hash, (0.0, controls))
        return key(newest) == key(controls)

    def only(self, request: gr.Request, controls: tuple, answer: tuple, key: Callable = tuple):
        """Return an event's answer if it is still asked for, else one that changes nothing."""
        return answer if self.still(request, controls, key) else (gr.skip(),) * len(answer)

    @contextlib.contextmanager
    def work(self, request: gr.Request, controls: tuple, report: Callable, key: Callable = tuple) -> Iterator[tuple]:
        """Yield a new folder, and a progress callback that reports, and raises `Stopped` once nobody waits."""
        session = request.session_hash

        def step(done: int, total: int) -> None:
            report((done, total))
            if self.runs.get(session) != folder or not self.still(request, controls, key):
                raise Stopped

        with self.workspace.made(session) as folder:
            self.runs[session] = folder
            yield folder, step

    def stop(self, session: str) -> None:
        """Ask a session's work to end at its next step."""
        self.runs.pop(session, None)

    def leave(self, request: gr.Request) -> None:
        """End the work of a session that has ended, and forget it."""
        self.stop(request.session_hash)
        self._newest.pop(request.session_hash, None)
        self.workspace.discard(request.session_hash)

    def wire_newest(self, stamp: gr.Number, controls: list) -> None:
        """Wire that a session's newest values are known at once, also while work for older ones goes on.

        `stamp` is a hidden field that the browser fills in; `controls` are all of the tab that its answers depend on.
        """

        def note(request: gr.Request, stamp: float, *values) -> None:
            self.note(request, stamp, values)

        gr.on([each.change for each in controls], note, [stamp, *controls], None, js=STAMPED, **EACH)

    def wire_run(self, triggers: list, work: Callable, inputs: list, outputs: list, buttons: tuple, shown) -> None:
        """Wire the main button and Stop, `buttons`: each works exactly while the other one makes no sense.

        `work` runs the network when one of `triggers` fires. Its first input is the stamp, its first output the line
        for messages. The component `shown` shows its progress.
        """
        (start, stop), line = buttons, outputs[0]

        def buttons_for(working: bool):
            return gr.update(interactive=not working), gr.update(interactive=working)

        def end(request: gr.Request):
            self.stop(request.session_hash)
            return *buttons_for(False), notice(Stopped.sentence)

        begun = gr.on(triggers, lambda: (*buttons_for(True), notice()), None, [start, stop, line], **AT_ONCE)
        running = begun.then(work, inputs, outputs, js=STAMPED, show_progress_on=shown, **NETWORK, **PRIVATE)
        running.then(lambda: buttons_for(False), None, [start, stop], **AT_ONCE)
        stop.click(end, None, [start, stop, line], cancels=[running], **AT_ONCE)


def styled(frame: pd.DataFrame):
    """Give every number of a table the decimals of its column's first word: 30.1 dB is 30.10."""
    formats = {name: f"{{:.{n}f}}" for name in frame for word, n in _DECIMALS.items() if name.startswith(word)}
    return frame.style.format(formats, na_rep="–")


def strength_slider(elem_id: str, **layout: int) -> gr.Slider:
    """Make the slider for the strength."""
    return gr.Slider(
        0, service.MAX_STRENGTH, 1, step=0.01, label="Strength", info=_STRENGTH_HINT, elem_id=elem_id, **layout
    )


def network_picker(elem_id: str) -> gr.Dropdown:
    """Make the picker with names for people; the one with ids is in `advanced`."""
    return gr.Dropdown(catalogue.choices(), label="Network", filterable=False, elem_id=elem_id)


def advanced(elem_id: str) -> list:
    """Make the controls that most people leave alone: estimate or level, exact network, metadata and format."""
    ids = [("The best of the kind chosen above", ""), *((network.id, network.id) for network in catalogue.networks())]
    with gr.Accordion("Advanced", open=False, elem_id=elem_id):
        with gr.Row(equal_height=True):
            automatic = gr.Checkbox(True, label="Estimate the noise level", min_width=140, elem_classes="automatic")
            level = gr.Slider(0, 75, 25, step=0.1, label="Noise level", info=_LEVEL_HINT, min_width=180)
        exact = gr.Dropdown(ids, value="", label="Exactly this network", filterable=False)
        with gr.Row():
            keep = gr.Checkbox(True, label="Keep metadata", info="camera, date, place", min_width=120)
            as_png = gr.Checkbox(False, label="Always PNG", info="lossless, also for JPEG", min_width=120)
    level.input(lambda: False, None, automatic, **AT_ONCE)
    return [automatic, level, exact, keep, as_png]
