"""How the page is laid out with gradio, and how it is served. No request leaves the machine, and nothing is kept."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from labclip.app.answers import DRAWN, STRONGEST, Answers, Session
from labclip.app.markup import part
from labclip.app.pair import SCENES, ModelPair
from labclip.app.work import FILE_BYTES, TABLES, Upload
from labclip.model import LABCLIP

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine can connect to."""

_LEFT = (60, 300)  # seconds: every so often uploads that nothing read are removed when they are so old
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_SCENES, _OWN = "Rendered scenes", "My captions and images"
_EXAMPLES = [["yellow ring, gray star", ""], ["white cross, blue heart", ""], ["red sphere", "purple"]]
_PRIVATE = {"api_visibility": "private"}


class _Guard:
    """Refuses other websites, forbids a browser every other host, and the server to fetch addresses.

    A page elsewhere can send requests here, as another origin, or under its own name where that leads to this machine
    (DNS rebinding).
    """

    def __init__(self, app: Any, local: bool, public: bool) -> None:
        self.app, self.local, self.public = app, local, public

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY.encode()),
                                      (b"referrer-policy", b"no-referrer")]  # fmt: skip
            await send(message)

        if scope["type"] not in ("http", "websocket"):  # the server's own start and end
            await self.app(scope, receive, send)
        elif self._is_foreign(Headers(scope=scope)):
            await PlainTextResponse("Other websites are refused.", 403)(scope, receive, send)
        elif "file=http" in (path := scope["path"].lower()) or path.endswith("/openapi.json"):
            await PlainTextResponse("There is no such page.", 404)(scope, receive, send)
        else:
            await self.app(scope, receive, guarded)

    def _is_foreign(self, headers: Headers) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.public:  # whoever has the address may ask anything, and a tunnel has names of its own
            return False
        if self.local and urlsplit(f"//{host}").hostname not in LOCAL:
            return True
        # A proxy in front says whom the browser has asked.
        return origin is not None and urlsplit(origin).netloc != headers.get("x-forwarded-host", host)


def build(answers: Answers, name: str) -> Any:
    """The page as `gradio.Blocks`."""
    with gr.Blocks(title="labclip", analytics_enabled=False, delete_cache=_LEFT) as page:
        gr.HTML(part("heading", name, answers.pair.alignment.is_identity))
        with gr.Tabs():
            with gr.Tab("Compare"):
                _compare(page, answers)
            with gr.Tab("Search") as tab:
                _search(tab, answers)
            with gr.Tab("Diagnose"):
                _diagnose(answers)
            with gr.Tab("Fit"):
                _fit(answers)

        def end(request: gr.Request) -> None:
            answers.end(request.session_hash)

        page.unload(end)
    return page


def _compare(page: Any, answers: Answers) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=260):
            shown = gr.HTML(elem_id="shown")
            another = gr.Button("Another scene")
            image = gr.Image(
                label="Your own image", sources=["upload", "clipboard"], height=170, buttons=[], elem_id="own"
            )
        with gr.Column(scale=3, min_width=300):
            captions = gr.Textbox(label="Captions, one per line", lines=3, max_lines=8)
            swap = gr.Button("Add the swapped captions")
            strength = gr.Slider(
                0, STRONGEST, answers.strength, step=0.01, label="Strength: 0 is the base, 1 the matrix as fitted"
            )
            found = gr.HTML(elem_id="compared")
    drawing = {"outputs": [shown, captions, found], **_PRIVATE}
    page.load(_ask(answers, answers.scene), strength, **drawing)
    another.click(_ask(answers, answers.scene), strength, **drawing)
    _take(answers, image, answers.photo, [captions, strength], [shown, found])
    swap.click(_ask(answers, answers.swapped, [gr.skip()]), [captions, strength], [captions, found], **_PRIVATE)
    live = {"trigger_mode": "always_last", "show_progress": "hidden", **_PRIVATE}
    captions.change(_ask(answers, answers.compared), [captions, strength], found, **live)
    strength.input(_ask(answers, answers.compared), [captions, strength], found, **live)


def _search(tab: Any, answers: Answers) -> None:
    with gr.Row(equal_height=True):
        query = gr.Textbox(
            _EXAMPLES[0][0], label="What must be there: parts, with commas between", scale=3, elem_id="query"
        )
        without = gr.Textbox(label="What must not be there", scale=2, elem_id="without")
        go = gr.Button("Search", variant="primary", scale=1, min_width=120, elem_id="go")
    gr.HTML(part("note", "Queries that the base gets wrong:"))
    with gr.Row():
        examples = [gr.Button(" without ".join(filter(None, example)), size="sm") for example in _EXAMPLES]
    found = gr.HTML(elem_id="found")
    with gr.Accordion("Search your own images", open=False):
        files = gr.File(label="Images, or a zip of them", file_count="multiple", height=170, elem_id="images")
        folder = gr.File(label="A folder of images", file_count="directory", height=170, elem_id="folder")
        back = gr.Button(f"Back to the {SCENES} scenes")
        status = gr.HTML(part("note", answers.of_scenes), elem_id="indexed")
    search = {"fn": _ask(answers, answers.searched), "inputs": [query, without], "outputs": found, **_PRIVATE}
    for asked in (tab.select, go.click, query.submit, without.submit):
        asked(**search)
    for example, button in zip(_EXAMPLES, examples, strict=True):
        button.click(lambda chosen=example: chosen, outputs=[query, without], **_PRIVATE).then(**search)
    for control in (files, folder):
        _take(answers, control, answers.indexed, [], [status]).then(**search)
    back.click(_ask(answers, answers.back), outputs=status, **_PRIVATE).then(**search)


def _diagnose(answers: Answers) -> None:
    gr.Markdown(
        "Where does this model lose which attribute belongs to which object, and what does a matrix repair? Linear "
        "probes read scenes and captions separately, the cosine compares them. Matrices are fitted on some "
        "combinations and measured on the others. 5,000 scenes take about a minute on two free cores."
    )
    count = gr.Slider(500, DRAWN, 2000, step=500, label="Scenes")
    _job(answers, "Diagnose", answers.diagnosis, [count], "diagnosis")


def _fit(answers: Answers) -> None:
    gr.Markdown(
        "Fit a matrix for this base on captions with hard negatives. A tenth of the images is held out; if the fit is "
        "not worth it, the page says why and there is no matrix."
    )
    source = gr.Radio([_SCENES, _OWN], value=_SCENES, label="Fit on", type="index")
    count = gr.Slider(500, DRAWN, 2000, step=500, label="Scenes")
    with gr.Column(visible=False) as own:
        table = gr.File(label=f"Captions with negatives ({', '.join(TABLES)})", height=170, elem_id="table")
        images = gr.File(label="Their images, or a zip of them", file_count="multiple", height=170, elem_id="photos")
        folder = gr.File(label="Their images as a folder", file_count="directory", height=170)
        clean = gr.Checkbox(label="Clean captions and negatives alike (for shuffled negatives)")
        named, counted = gr.HTML(elem_id="named"), gr.HTML(elem_id="counted")
    _job(answers, "Fit", answers.fit, [source, count, clean], "fitted")

    def choose(own: int) -> tuple[Any, Any]:
        return gr.update(visible=not own), gr.update(visible=bool(own))

    source.change(choose, source, [count, own], **_PRIVATE)
    _take(answers, table, answers.table, [], [named])
    for control in (images, folder):
        _take(answers, control, answers.photos, [], [counted])


def _ask(answers: Answers, method: Callable[..., Any], others: Sequence[Any] = ()) -> Callable[..., Any]:
    """A method for the visitor who asks; what is wrong is told in its last output, and `others` are the ones before."""

    def ask(request: gr.Request, *given: Any) -> Any:
        try:
            return method(answers.session(request.session_hash), *given)
        except (ValueError, OSError) as error:
            told = part("error", str(error))
            return (*others, told) if others else told

    return ask


def _take(answers: Answers, control: Any, method: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> Any:
    """Give a method what is uploaded, which empties the control; then remove the files."""
    control.preprocess = _uploads
    control.async_move_resource_to_block_cache = _as_it_is

    def forget(request: gr.Request) -> None:  # later, as the browser may still be fetching an image it has just sent
        answers.session(request.session_hash).forget()

    def take(session: Session, files: list[Upload], *given: Any) -> Any:
        session.spent += [one.path for one in files]
        found = method(session, files, *given)
        return (None, *([found] if len(outputs) == 1 else found))

    others = None, *[gr.skip()] * (len(outputs) - 1)
    asked = control.upload(_ask(answers, take, others), [control, *inputs], [control, *outputs], **_PRIVATE)
    return asked.then(forget, **_PRIVATE)


def _uploads(payload: Any) -> list[Upload]:
    """What a control was given, where gradio has put it; gradio's own way decodes images and leaves empty files."""
    files = payload.root if hasattr(payload, "root") else [payload]
    return [Upload(one.orig_name or Path(one.path).name, Path(one.path)) for one in files if one and one.path]


async def _as_it_is(path: str) -> str:
    """An uploaded file stays where it is; an address that was sent as one is no file, and is never looked up."""
    return path


def _job(answers: Answers, name: str, method: Callable[..., Iterator[str]], inputs: list[Any], place: str) -> None:
    """Two buttons, and what long work tells as it goes; one of all visitors at a time.

    Gradio closes the iterator where its page is closed or Cancel is pressed, which ends the work.
    """
    with gr.Row():
        run, cancel = gr.Button(name, variant="primary", min_width=120), gr.Button("Cancel", min_width=120)
    found = gr.HTML(elem_id=place)

    def work(request: gr.Request, *given: Any) -> Iterator[str]:
        session = answers.session(request.session_hash)
        session.idle.clear()
        try:
            yield from method(session, *given)
        except (ValueError, OSError) as error:
            yield part("error", str(error))
        finally:
            session.idle.set()

    def stopped(request: gr.Request) -> str:  # what is begun before gradio has ended the work would be ended with it
        answers.session(request.session_hash).idle.wait(30)
        return part("note", "Cancelled. Nothing was kept.")

    running = run.click(
        work, inputs, found, concurrency_id="job", concurrency_limit=1, show_progress="minimal", **_PRIVATE
    )
    cancelled = cancel.click(None, cancels=[running], queue=False, **_PRIVATE)
    cancelled.then(stopped, None, found, queue=False, **_PRIVATE)


def serve(
    model: LABCLIP, typed: Sequence[str], alignment: Sequence[str] = (), *, name: str, host: str, port: int,
    say: Callable[[str], object], share: bool = False,
) -> None:  # fmt: skip
    """Serve the page until Ctrl-C or a termination. Afterwards nothing of any session is left.

    Args:
        model: What is compared with its base.
        typed: What a command is told to load its base, for example ["--model", "scenes"].
        alignment: What it is told of another matrix than the model's own, for example ["--alignment", "mine"].
        name: What the page calls it.
        host: Address to listen on; any but `LOCAL` lets other machines in.
        port: Port to listen on.
        say: Is told the address.
        share: Whether gradio opens a public address, through its own server.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="labclip-app-", ignore_cleanup_errors=True) as root:
        # Uploads stand apart: gradio gives whatever is in its folder to whoever knows the path.
        os.environ["GRADIO_TEMP_DIR"] = str(Path(root, "uploads"))
        Path(root, "sessions").mkdir()
        answers = Answers(ModelPair(model), Path(root, "sessions"), typed, alignment)
        page = build(answers, name)
        guard = Middleware(_Guard, local=host in LOCAL, public=share)
        try:
            _, local, public = page.queue().launch(
                server_name=host, server_port=port, share=share, prevent_thread_lock=True, quiet=True, inbrowser=False,
                footer_links=[], run_history=False, ssr_mode=False, pwa=False, mcp_server=False, num_workers=0,
                max_file_size=FILE_BYTES, allowed_paths=[], app_kwargs={"middleware": [guard]}, theme=_theme(),
                css_paths=Path(__file__).with_name("style.css"), enable_monitoring=False,
            )  # fmt: skip
            say(public or local)
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
        finally:
            answers.close()
            page.close(verbose=False)


def check_free(host: str, port: int) -> None:
    """Refuse an address that can't be listened on, with ValueError."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (")[0]
        raise ValueError(
            f"The page can't listen on {host}:{port} ({why}). Pass another --port, for example --port {port + 1}, or "
            f"another --host."
        ) from error


def _theme() -> Any:
    """Gradio's plain theme, with this machine's fonts; the usual one asks Google's server for its own."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    return gr.themes.Default(primary_hue="emerald", font=fonts, font_mono=["ui-monospace", "Consolas", "monospace"])
