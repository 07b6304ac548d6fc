"""How the page is laid out with gradio, and how it is served. No request leaves the machine, and nothing is kept."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response

from labclip import scenes
from labclip.app.answers import DRAWN, EXAMPLES, Answers, Session, duration, part, sample
from labclip.app.pair import SCENES, STRONGEST, ModelPair, uri
from labclip.app.work import FILE_BYTES, TABLES, Job, Upload
from labclip.io.published import AUTHORS_REPOSITORY
from labclip.model import LABCLIP

_LEFT = (20, 120)  # seconds: every so often uploads are removed when they are so old
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_LOCAL = ("127.0.0.1", "localhost", "::1")
_QUERIES = [["yellow ring, gray star", ""], ["white cross, blue heart", ""], ["red sphere", "purple"]]
_PRIVATE = {"api_visibility": "private"}
_EVERY = 0.5  # seconds between two looks at long work


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
        elif path in ("/sample.csv", "/sample.zip"):
            await Response(await run_in_threadpool(sample, path[1:]))(scope, receive, guarded)
        else:
            await self.app(scope, receive, guarded)

    def _is_foreign(self, headers: Headers) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.public:  # whoever has the address may ask anything, and a tunnel has names of its own
            return False
        if self.local and urlsplit(f"//{host}").hostname not in _LOCAL:
            return True
        # A proxy in front says whom the browser has asked.
        return origin is not None and urlsplit(origin).netloc != headers.get("x-forwarded-host", host)


def build(answers: Answers, name: str) -> Any:
    """The page as `gradio.Blocks`."""
    with gr.Blocks(title="labclip", analytics_enabled=False, delete_cache=_LEFT) as page:
        links = [("Its authors' code", f"https://github.com/{AUTHORS_REPOSITORY}")]
        links += [url.split(", ") for url in metadata.metadata("labclip").get_all("Project-URL") or ()]
        same = answers.pair.alignment.is_identity
        gr.HTML(part("heading", name, answers.embedded, same, links), elem_id="heading")
        with gr.Row(visible=False, elem_id="in-use") as in_use:
            gr.HTML(part("in_use"))
            back = gr.Button("Back to the model's own matrix", size="sm")
        with gr.Tabs(selected="compare") as tabs:
            with gr.Tab("Compare", id="compare"):
                captions, strength, compared = _compare(page, answers)
            with gr.Tab("Search", id="search") as tab:
                _search(tab, answers)
            with gr.Tab("Diagnose", id="diagnose"):
                _diagnose(answers)
            with gr.Tab("Fit", id="fit") as tab:
                use = _fit(tab, answers)

        def take(session: Session, captions: str, fitted: bool) -> tuple[Any, ...]:
            session.alignment = (session.fitted if fitted else None) or answers.pair.alignment
            selected = gr.Tabs(selected="compare") if fitted else gr.skip()
            strength = session.alignment.strength
            return gr.Row(visible=fitted), selected, strength, session.compared(captions, strength)

        for button, fitted in ((use, True), (back, False)):
            taken = _ask(answers, partial(take, fitted=fitted), [gr.skip()] * 3)
            button.click(taken, captions, [in_use, tabs, strength, compared], **_PRIVATE)

        def end(request: gr.Request) -> None:
            answers.end(request.session_hash)

        page.unload(end)
    return page


def _compare(page: Any, answers: Answers) -> tuple[Any, Any, Any]:
    with gr.Row():
        with gr.Column(scale=2, min_width=260):
            shown = gr.HTML(elem_id="shown")
        with gr.Column(scale=3, min_width=300):
            found = gr.HTML(elem_id="compared")
    with gr.Row(elem_id="controls"):
        with gr.Column(scale=3, min_width=300):
            captions = gr.Textbox(label="Captions, one per line", lines=2, max_lines=8)
            fitted, label = answers.pair.alignment.strength, "Strength: 0 is CLIP, 1 the matrix as fitted"
            strength = gr.Slider(0, STRONGEST, fitted, step=0.01, label=label)
        with gr.Column(scale=2, min_width=260):
            with gr.Row(elem_id="examples"):
                buttons = {
                    title: gr.Button(title, elem_id=f"example-{number}", elem_classes="l-example", min_width=80)
                    for number, title in enumerate(EXAMPLES)
                }
            another = gr.Button("A random scene", size="sm")
            sources = ["upload", "clipboard"]
            image = gr.Image(label="Your own image", sources=sources, height=150, buttons=[], elem_id="own")
            gr.HTML(part("knows", answers.embedded))
    strength.preprocess = lambda value: min(max(value or 0, 0), STRONGEST)  # what is typed may be anything
    drawing = {"inputs": strength, "outputs": [shown, captions, found], **_PRIVATE}
    for title, button in buttons.items():
        button.click(_ask(answers, partial(Session.scene, example=title)), **drawing)
    page.load(_ask(answers, partial(Session.scene, example=next(iter(EXAMPLES)))), **drawing)
    another.click(_ask(answers, Session.scene), **drawing)
    _take(answers, image, Session.photo, [captions, strength], [shown, found])
    live = {"trigger_mode": "always_last", "show_progress": "hidden", **_PRIVATE}
    for changed in (captions.change, strength.change):
        changed(_ask(answers, Session.compared), [captions, strength], found, **live)
    return captions, strength, found


def _search(tab: Any, answers: Answers) -> None:
    with gr.Row(equal_height=True):
        query = gr.Textbox(_QUERIES[0][0], label="What must be there, with commas", scale=3, elem_id="query")
        without = gr.Textbox(label="What must not be there", scale=2, elem_id="without")
        go = gr.Button("Search", variant="primary", scale=1, min_width=120, elem_id="go")
    with gr.Row(elem_id="queries"):
        examples = [gr.Button(" without ".join(filter(None, one)), size="sm", min_width=100) for one in _QUERIES]
    found = gr.HTML(elem_id="found")
    with gr.Accordion("Search your own images", open=False):
        images, folder = _files("Images, or a zip of them", "images", "folder")
        back = gr.Button(f"Back to the {SCENES} scenes")
        status = gr.HTML(part("scenes", answers.embedded), elem_id="indexed")
    search = {"fn": _ask(answers, Session.searched), "inputs": [query, without], "outputs": found, **_PRIVATE}
    for asked in (tab.select, go.click, query.submit, without.submit):
        asked(**search)
    for example, button in zip(_QUERIES, examples, strict=True):
        button.click(lambda chosen=example: chosen, outputs=[query, without], **_PRIVATE).then(**search)
    for control in (images, folder):
        _take(answers, control, Session.indexed, [], [status]).then(**search)
    back.click(_ask(answers, Session.back), outputs=status, **_PRIVATE).then(**search)


def _files(label: str, files: str, folder: str) -> tuple[Any, Any]:
    return (
        gr.File(label=label, file_count="multiple", height=150, elem_id=files),
        gr.UploadButton("Or a folder", file_count="directory", size="sm", elem_id=folder),
    )


def _diagnose(answers: Answers) -> None:
    gr.HTML(part("diagnose"))
    count = gr.Slider(500, DRAWN, 2000, step=500, label="Scenes")
    _job(answers, "Diagnose", Session.diagnosis, [count], "diagnosis")


def _fit(tab: Any, answers: Answers) -> Any:
    gr.HTML(part("fit"))
    kinds = ["Rendered scenes", "My captions and images"]
    source = gr.Radio(kinds, value=kinds[0], label="Fit on", type="index")
    with gr.Column() as drawing:
        count = gr.Slider(500, DRAWN, 2000, step=500, label="Scenes")
        expected = gr.HTML(elem_id="expected")
    with gr.Column(visible=False) as own:
        gr.HTML(part("columns", ", ".join(TABLES)))
        files, folder = _files("Captions, and images or a zip of them", "files", "files-folder")
        ready = gr.HTML(elem_id="ready")
    use = _job(answers, "Fit", Session.fit, [source, count], "fitted")

    def choose(chosen: int) -> tuple[Any, Any]:
        return gr.update(visible=not chosen), gr.update(visible=bool(chosen))

    source.change(choose, source, [drawing, own], **_PRIVATE)
    for asked in (tab.select, count.change):
        asked(_ask(answers, Session.expected), count, expected, show_progress="hidden", **_PRIVATE)
    for control in (files, folder):
        _take(answers, control, Session.taken, [], [ready])
    return use


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
    """Give a method what is uploaded, which empties the control."""
    control.preprocess = _uploads
    control.async_move_resource_to_block_cache = _as_it_is

    def take(session: Session, files: list[Upload], *given: Any) -> Any:
        found = method(session, files, *given)
        return (None, *([found] if len(outputs) == 1 else found))

    others = None, *[gr.skip()] * (len(outputs) - 1)
    return control.upload(_ask(answers, take, others), [control, *inputs], [control, *outputs], **_PRIVATE)


def _uploads(payload: Any) -> list[Upload]:
    """What a control was given, where gradio has put it; gradio's own way decodes images and leaves empty files."""
    files = payload.root if hasattr(payload, "root") else [payload]
    return [Upload(one.orig_name or Path(one.path).name, Path(one.path)) for one in files if one and one.path]


async def _as_it_is(path: str) -> str:
    """An uploaded file stays where it is; an address that was sent as one is no file, and is never looked up."""
    return path


def _job(answers: Answers, name: str, method: Callable[..., Job], inputs: list[Any], place: str) -> Any:
    """Buttons, and what long work tells as it goes; gives the button that is shown where there is a matrix to use.

    The work is not gradio's: it waits and ends by itself, whatever becomes of the page.
    """
    with gr.Row():
        run = gr.Button(name, variant="primary", min_width=120, elem_id=f"run-{place}")
        cancel = gr.Button("Cancel", min_width=120, interactive=False, elem_id=f"cancel-{place}")
        use = gr.Button("Use this matrix here", variant="primary", visible=False, elem_id=f"use-{place}")
    found = gr.HTML(elem_id=place)

    def show(told: str, *, busy: bool, usable: bool = False) -> tuple[Any, ...]:
        return gr.Button(interactive=not busy), gr.Button(interactive=busy), gr.Button(visible=usable), told

    async def work(request: gr.Request, *given: Any) -> AsyncIterator[tuple[Any, ...]]:
        session, began = answers.session(request.session_hash), time.monotonic()
        yield show(part("note", "This begins."), busy=True)
        try:
            job = session.jobs[place] = answers.add(await asyncio.to_thread(method, session, *given))
            while not job.result.done():
                if before := answers.before(job):
                    began = time.monotonic()
                yield show(part("step", job, before, time.monotonic() - began, duration(job.seconds)), busy=True)
                await asyncio.sleep(_EVERY)
            told = job.result.result()
        except CancelledError:
            told = part("note", "Cancelled. Nothing was kept.")
        except (ValueError, OSError) as error:
            told = part("error", str(error))
        yield show(told, busy=False, usable=session.fitted is not None and method is Session.fit)

    def stop(request: gr.Request) -> None:
        if (job := answers.session(request.session_hash).jobs.get(place)) is not None:
            job.cancel()

    run.click(work, inputs, [run, cancel, use, found], concurrency_limit=None, show_progress="hidden", **_PRIVATE)
    cancel.click(stop, queue=False, **_PRIVATE)
    return use


def serve(
    model: LABCLIP, typed: Sequence[str], alignment: Sequence[str] = (), *, name: str, host: str, port: int,
    say: Callable[[str], object], share: bool = False,
) -> None:  # fmt: skip
    """Serve the page until Ctrl-C or a termination; afterwards nothing of any session is left.

    `typed` and `alignment` are as in `Answers`, `name` is what the page calls the model, and `say` is told the address.
    `share` lets gradio open a public one, through its own server.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="labclip-app-", ignore_cleanup_errors=True) as root:
        # Uploads stand apart: gradio gives whatever is in its folder to whoever knows the path.
        os.environ["GRADIO_TEMP_DIR"] = str(Path(root, "uploads"))
        Path(root, "sessions").mkdir()
        style, script = (Path(__file__).with_name(name).read_text() for name in ("style.css", "page.js"))
        for number, (example, _) in enumerate(EXAMPLES.values()):
            shown = Image.fromarray(scenes.sample(1, split="all", **example).render(128)[0])
            style += f"#example-{number} {{ background-image: url({uri(shown)}) }}"
        answers = Answers(ModelPair(model), Path(root, "sessions"), typed, alignment)
        page = build(answers, name)
        guard = Middleware(_Guard, local=host in _LOCAL, public=share)
        # This machine's fonts: the usual theme asks Google's server for its own.
        fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
        theme = gr.themes.Default(primary_hue="emerald", font=fonts, font_mono=["ui-monospace", "monospace"])
        try:
            _, local, public = page.queue().launch(
                server_name=host, server_port=port, share=share, prevent_thread_lock=True, quiet=True, inbrowser=False,
                footer_links=[], run_history=False, ssr_mode=False, pwa=False, mcp_server=False, num_workers=0,
                max_file_size=FILE_BYTES, allowed_paths=[str(Path(root, "uploads"))], enable_monitoring=False,
                app_kwargs={"middleware": [guard]}, theme=theme, css=style, head=f"<script>{script}</script>",
            )  # fmt: skip
            say(public or local)
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
        finally:
            answers.close()
            if server := getattr(page, "server", None):
                logging.getLogger("uvicorn.error").disabled = True
                server.force_exit = True  # it would wait for pages that are open
            page.close(verbose=False)
            gc.freeze()  # Python would look at every object again before it ends, which takes seconds
