"""How the page is laid out with gradio, and how it is served. No request leaves the machine, and nothing is kept."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from labclip import scenes
from labclip.app.pair import SCENES, STRONGEST, ModelPair, uri
from labclip.app.session import EXAMPLES, Session, Sessions, part
from labclip.app.work import FILE_BYTES, TABLES, Upload, run
from labclip.io.published import AUTHORS_REPOSITORY
from labclip.model import LABCLIP
from labclip.packages import EMBEDDED

_LEFT = (20, 120)  # seconds: every so often uploads are removed when they are so old
_POLICY = [
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
        b"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    ),
]
_LOCAL = ("127.0.0.1", "localhost", "::1")
_QUERIES = [["yellow ring, gray star", ""], ["white cross, blue heart", ""], ["red sphere", "purple"]]
_PRIVATE = {"api_visibility": "private"}
_EVERY = 0.5  # seconds between two looks at long work


def _guard(app: Any, *, local: bool, public: bool) -> Callable[..., Any]:
    """The app, which refuses other websites, forbids a browser every other host, and the server to fetch addresses.

    A page elsewhere can send requests here, as another origin, or under its own name where that leads to this machine
    (DNS rebinding).
    """

    def is_foreign(headers: Headers) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        if public:  # whoever has the address may ask anything, and a tunnel has names of its own
            return False
        if local and urlsplit(f"//{host}").hostname not in _LOCAL:
            return True
        # A proxy in front says whom the browser has asked.
        return origin is not None and urlsplit(origin).netloc != headers.get("x-forwarded-host", host)

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_POLICY]
            await send(message)

        if scope["type"] not in ("http", "websocket"):  # the server's own start and end
            await app(scope, receive, send)
        elif is_foreign(Headers(scope=scope)):
            await PlainTextResponse("Other websites are refused.", 403)(scope, receive, send)
        elif "file=http" in (path := scope["path"].lower()) or path.endswith("/openapi.json"):
            await PlainTextResponse("There is no such page.", 404)(scope, receive, send)
        else:
            await app(scope, receive, send_with_policy)

    return guarded


class _Page:
    """The page, as `gradio.Blocks`, and the sessions of those who have it open."""

    def __init__(
        self, pair: ModelPair, root: Path, typed: Sequence[str], alignment: Sequence[str], *, name: str
    ) -> None:
        self._pair, self._root, self._embedded = pair, root, EMBEDDED in typed
        # What is in gradio.State stays for an hour after a page is closed.
        self._sessions = Sessions(partial(Session, pair, root, typed, alignment))
        with gr.Blocks(title="labclip", analytics_enabled=False, delete_cache=_LEFT) as self.blocks:
            same = pair.alignment.is_identity
            gr.HTML(part("heading", name, self._embedded, same, AUTHORS_REPOSITORY), elem_id="heading")
            use = gr.Checkbox(label="Compare and search with the matrix that you fitted", visible=False, elem_id="use")
            with gr.Tabs():
                with gr.Tab("Compare"):
                    captions, strength, compared = self._compare()
                with gr.Tab("Search") as tab:
                    self._search(tab)
                with gr.Tab("Diagnose"):
                    gr.HTML(part("diagnose"))
                    count = gr.Slider(500, 10_000, 2000, step=500, label="Scenes")
                    self._long("Diagnose", Session.diagnosis, Session.report, [count], "diagnosis")
                with gr.Tab("Fit"):
                    self._fit(use)
            self._on(use.input, Session.use, [use, captions], [strength, compared])
            self.blocks.unload(self._end)

    async def _end(self, request: gr.Request) -> None:
        if (session := self._sessions.pop(str(request.session_hash), None)) is not None:
            session.close()

    def _on(
        self, event: Any, method: Callable[..., Any], inputs: list[Any], outputs: list[Any], *, emptied: Any = (),
        **options: Any,
    ) -> Any:  # fmt: skip
        """Let a method answer an event for the visitor who asks; what is wrong is told in its last output."""

        async def ask(request: gr.Request, *given: Any) -> Any:
            session = self._sessions[str(request.session_hash)]
            try:
                answer = await run_in_threadpool(method, session, *given)
                shown = dict(zip(outputs, answer if len(outputs) > 1 else [answer], strict=True))
            except (ValueError, OSError) as error:
                shown = {outputs[-1]: part("error", str(error))}
            return shown | dict.fromkeys(emptied)

        return event(ask, inputs, [*emptied, *outputs], **_PRIVATE, **options)

    def _on_upload(self, control: Any, method: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> Any:
        """Give a method what is uploaded, and empty the control."""
        control.preprocess = _uploads
        control.async_move_resource_to_block_cache = _as_it_is
        return self._on(control.upload, method, [control, *inputs], outputs, emptied=[control])

    def _compare(self) -> tuple[Any, Any, Any]:
        with gr.Row():
            with gr.Column(scale=2, min_width=260):
                shown = gr.HTML(elem_id="shown")
            with gr.Column(scale=3, min_width=300):
                compared = gr.HTML(elem_id="compared")
        with gr.Row(elem_id="controls"):
            with gr.Column(scale=3, min_width=300):
                captions = gr.Textbox(label="Captions, one per line", lines=2, max_lines=8, max_length=5000)
                fitted, label = self._pair.alignment.strength, "Strength: 0 is CLIP, 1 the matrix as fitted"
                strength = gr.Slider(0, STRONGEST, fitted, step=0.01, label=label)
                strength.preprocess = lambda value: min(max(value or 0, 0), STRONGEST)  # what is typed may be anything
            with gr.Column(scale=2, min_width=260):
                drawn = [shown, captions, compared]
                with gr.Row(elem_id="examples"):
                    for number, title in enumerate(EXAMPLES):
                        button = gr.Button(title, elem_id=f"example-{number}", elem_classes="l-example", min_width=80)
                        self._on(button.click, partial(Session.scene, example=title), [strength], drawn)
                self._on(gr.Button("A random scene", size="sm").click, Session.scene, [strength], drawn)
                sources = ["upload", "clipboard"]
                image = gr.Image(label="Your own image", sources=sources, height=150, buttons=[], elem_id="own")
                gr.HTML(part("knows", self._embedded))
        self._on(self.blocks.load, partial(Session.scene, example=next(iter(EXAMPLES))), [strength], drawn)
        self._on_upload(image, Session.photo, [captions, strength], [shown, compared])
        for changed in (captions.change, strength.change):
            self._on(changed, Session.compared, [captions, strength], [compared], show_progress="hidden")
        return captions, strength, compared

    def _search(self, tab: Any) -> None:
        with gr.Row(equal_height=True):
            query = gr.Textbox(_QUERIES[0][0], label="What must be there, with commas", scale=3, elem_id="query")
            without = gr.Textbox(label="What must not be there", scale=2, elem_id="without")
            go = gr.Button("Search", variant="primary", scale=1, min_width=120, elem_id="go")
        events = [tab.select, go.click, query.submit, without.submit]
        with gr.Row(elem_id="queries"):
            for words in _QUERIES:
                button = gr.Button(" without ".join(filter(None, words)), size="sm", min_width=100)
                events.append(button.click(lambda words=words: words, outputs=[query, without], **_PRIVATE).then)
        results = gr.HTML(elem_id="found")
        with gr.Accordion("Search your own images", open=False):
            images = gr.File(label="Images, or a zip of them", file_count="multiple", height=150, elem_id="images")
            back = gr.Button(f"Back to the {SCENES} scenes")
            status = gr.HTML(elem_id="indexed")
            gr.HTML(part("knows", self._embedded))
        events.append(self._on_upload(images, Session.indexed, [], [status]).then)
        events.append(self._on(back.click, Session.back, [], [status]).then)
        for event in events:
            self._on(event, Session.searched, [query, without], [results])

    def _fit(self, use: Any) -> None:
        gr.HTML(part("fit"))
        kinds = ["Rendered scenes", "My captions and images"]
        source = gr.Radio(kinds, value=kinds[0], label="Fit on", type="index")
        count = gr.Slider(500, 10_000, 2000, step=500, label="Scenes")
        with gr.Column(visible=False) as own:
            gr.HTML(part("columns", ", ".join(TABLES)))
            label = "Captions, and images or a zip of them"
            files = gr.File(label=label, file_count="multiple", height=150, elem_id="files")
            ready = gr.HTML(elem_id="ready")

        def choose(chosen: int) -> tuple[Any, Any]:
            return gr.Slider(visible=not chosen), gr.Column(visible=bool(chosen))

        source.change(choose, source, [count, own], **_PRIVATE)
        self._on_upload(files, Session.taken, [], [ready])
        done = self._long("Fit", Session.fit, Session.fit_result, [source, count], "fitted")
        self._on(done, lambda session: gr.Checkbox(visible=session.fitted is not None), [], [use])

    def _long(
        self, name: str, commands: Callable[..., Any], result: Callable[..., str], inputs: list[Any], place: str
    ) -> Any:
        """Buttons and the place for long work, one at a time for all visitors; gives the event of its end.

        gradio closes the generator, which ends the work, when it is cancelled, the page closed or the server ended.
        """
        with gr.Row():
            start = gr.Button(name, variant="primary", min_width=120, elem_id=f"run-{place}")
            cancel = gr.Button("Cancel", min_width=120, interactive=False, elem_id=f"cancel-{place}")
        shown = gr.HTML(elem_id=place, min_height=60)

        places = [start, cancel, shown]

        def show(html: str, busy: bool = True) -> tuple[Any, ...]:
            return gr.Button(interactive=not busy), gr.Button(interactive=busy), html

        async def work(request: gr.Request, *given: Any) -> AsyncIterator[tuple[Any, ...]]:
            session = self._sessions[str(request.session_hash)]
            try:
                with tempfile.TemporaryDirectory(prefix="work-", dir=self._root) as folder:
                    asked = await run_in_threadpool(commands, session, Path(folder), *given)
                    with closing(run(asked, Path(folder))) as steps:
                        for step in steps:
                            yield show(part("step", *step))
                            await asyncio.sleep(_EVERY)
                    html = await run_in_threadpool(result, session, Path(folder))
            except (ValueError, OSError) as error:
                html = part("error", str(error))
            yield show(html, busy=False)

        ended = part("note", "Cancelled. Nothing was kept.")
        start.click(lambda: show(""), outputs=places, queue=False, **_PRIVATE)
        working = start.click(work, inputs, places, concurrency_id="long", concurrency_limit=1, **_PRIVATE)
        working.failure(lambda: show(ended, busy=False), outputs=places, queue=False, **_PRIVATE)
        cancel.click(None, cancels=working)
        return working.then


def _uploads(payload: Any) -> list[Upload]:
    """What a control was given, where gradio has put it; gradio's own way decodes images and leaves empty files."""
    files = payload.root if hasattr(payload, "root") else [payload]
    return [(Path(file.orig_name or file.path).name, Path(file.path)) for file in files if file and file.path]


async def _as_it_is(path: str) -> str:
    """An uploaded file stays where it is; an address that was sent as one is no file, and is never looked up."""
    return path


def serve(
    model: LABCLIP, model_options: Sequence[str], alignment_options: Sequence[str] = (), *, name: str, host: str,
    port: int, announce: Callable[[str], object], share: bool = False,
) -> None:  # fmt: skip
    """Serve the page until Ctrl-C or a termination; afterwards nothing of any session is left.

    `typed` and `alignment` are as in `Session`, `name` is what the page calls the model, and `say` is told the address.
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
        page = _Page(ModelPair(model), Path(root, "sessions"), model_options, alignment_options, name=name).blocks
        guard = Middleware(_guard, local=host in _LOCAL, public=share)
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
            announce(public or local)
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
        finally:
            if server := getattr(page, "server", None):
                logging.getLogger("uvicorn.error").disabled = True
                server.force_exit = True  # it would wait for pages that are open
            page.close(verbose=False)
            gc.freeze()  # Python would look at every object again before it ends, which takes seconds
