"""The gradio layout of the page, and its server. No request leaves the machine, and no upload is kept."""

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
from labclip.alignment import MAX_STRENGTH
from labclip.app.pair import SCENES, ModelPair, uri
from labclip.app.session import EXAMPLES, Session, Sessions, render
from labclip.app.work import FILE_BYTES, TABLES, Upload, run
from labclip.io.published import AUTHORS_REPOSITORY
from labclip.model import LABCLIP
from labclip.packages import EMBEDDED

_DELETE_CACHE = (20, 120)  # every 20 s, gradio removes uploads older than 120 s
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
_POLL_SECONDS = 0.5  # between two progress updates of a running command


def _guard(app: Any, *, local: bool, public: bool) -> Callable[..., Any]:
    """Wrap the app: refuse requests of other websites, and keep browser and server from contacting other hosts.

    Another website can send requests to the page from its own origin, or under a name of its own that it points to this
    machine (DNS rebinding).
    """

    def is_foreign(headers: Headers) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        if public:  # anyone with the address may use the page, and a tunnel has other host names
            return False
        if local and urlsplit(f"//{host}").hostname not in _LOCAL:
            return True
        # A proxy passes on the host that the browser asked for.
        return origin is not None and urlsplit(origin).netloc != headers.get("x-forwarded-host", host)

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_POLICY]
            await send(message)

        if scope["type"] not in ("http", "websocket"):  # events of the server itself
            await app(scope, receive, send)
        elif is_foreign(Headers(scope=scope)):
            await PlainTextResponse("Other websites are refused.", 403)(scope, receive, send)
        elif "file=http" in (path := scope["path"].lower()) or path.endswith("/openapi.json"):
            await PlainTextResponse("There is no such page.", 404)(scope, receive, send)
        else:
            await app(scope, receive, send_with_policy)

    return guarded


class _Page:
    """The page, as `gradio.Blocks`, and the sessions of its open copies."""

    def __init__(self, pair: ModelPair, root: Path, *, name: str) -> None:
        self._pair, self._root, self._is_embedded = pair, root, EMBEDDED in pair.model_options
        # Not gradio.State, which would keep a session for an hour after its page is closed.
        self._sessions = Sessions(partial(Session, pair, root))
        with gr.Blocks(title="labclip", analytics_enabled=False, delete_cache=_DELETE_CACHE) as self.blocks:
            is_identity = pair.alignment.is_identity
            gr.HTML(render("heading", name, self._is_embedded, is_identity, AUTHORS_REPOSITORY), elem_id="heading")
            use = gr.Checkbox(label="Compare and search with the matrix that you fitted", visible=False, elem_id="use")
            with gr.Tabs():
                with gr.Tab("Compare"):
                    captions, strength, comparison = self._build_compare()
                with gr.Tab("Search") as tab:
                    self._build_search(tab)
                with gr.Tab("Diagnose"):
                    gr.HTML(render("diagnose"))
                    count = gr.Slider(500, 10_000, 2000, step=500, label="Scenes")
                    self._build_job("Diagnose", Session.diagnosis_commands, Session.show_report, [count], "diagnosis")
                with gr.Tab("Fit"):
                    self._build_fit(use)
            self._on(use.input, Session.use_fitted, [use, captions], [strength, comparison])
            self.blocks.unload(self._close_session)

    async def _close_session(self, request: gr.Request) -> None:
        if (session := self._sessions.pop(str(request.session_hash), None)) is not None:
            session.close()

    def _on(
        self, event: Any, method: Callable[..., Any], inputs: list[Any], outputs: list[Any], *, clear: Any = (),
        **options: Any,
    ) -> Any:  # fmt: skip
        """Answer an event with a method of the visitor's session. An error is shown in the last output."""

        async def answer(request: gr.Request, *values: Any) -> Any:
            session = self._sessions[str(request.session_hash)]
            try:
                result = await run_in_threadpool(method, session, *values)
                updates = dict(zip(outputs, result if len(outputs) > 1 else [result], strict=True))
            except (ValueError, OSError) as error:
                updates = {outputs[-1]: render("error", str(error))}
            return updates | dict.fromkeys(clear)

        return event(answer, inputs, [*clear, *outputs], **_PRIVATE, **options)

    def _on_upload(self, control: Any, method: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> Any:
        """Pass uploaded files to a method, and clear the control."""
        control.preprocess = _uploads
        control.async_move_resource_to_block_cache = _keep_path
        return self._on(control.upload, method, [control, *inputs], outputs, clear=[control])

    def _build_compare(self) -> tuple[Any, Any, Any]:
        with gr.Row():
            with gr.Column(scale=2, min_width=260):
                image = gr.HTML(elem_id="shown")
            with gr.Column(scale=3, min_width=300):
                comparison = gr.HTML(elem_id="compared")
        with gr.Row(elem_id="controls"):
            with gr.Column(scale=3, min_width=300):
                captions = gr.Textbox(label="Captions, one per line", lines=2, max_lines=8, max_length=5000)
                default, label = self._pair.alignment.strength, "Strength: 0 is CLIP, 1 the matrix as fitted"
                strength = gr.Slider(0, MAX_STRENGTH, default, step=0.01, label=label)
                strength.preprocess = lambda value: min(max(value or 0, 0), MAX_STRENGTH)  # typed values have no bounds
            with gr.Column(scale=2, min_width=260):
                outputs = [image, captions, comparison]
                with gr.Row(elem_id="examples"):
                    for number, title in enumerate(EXAMPLES):
                        button = gr.Button(title, elem_id=f"example-{number}", elem_classes="l-example", min_width=80)
                        self._on(button.click, partial(Session.show_scene, example=title), [strength], outputs)
                self._on(gr.Button("A random scene", size="sm").click, Session.show_scene, [strength], outputs)
                sources = ["upload", "clipboard"]
                upload = gr.Image(label="Your own image", sources=sources, height=150, buttons=[], elem_id="own")
                gr.HTML(render("limits", self._is_embedded))
        self._on(self.blocks.load, partial(Session.show_scene, example=next(iter(EXAMPLES))), [strength], outputs)
        self._on_upload(upload, Session.show_photo, [captions, strength], [image, comparison])
        for event in (captions.change, strength.change):
            self._on(event, Session.compare, [captions, strength], [comparison], show_progress="hidden")
        return captions, strength, comparison

    def _build_search(self, tab: Any) -> None:
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
            gr.HTML(render("limits", self._is_embedded))
        events.append(self._on_upload(images, Session.index_images, [], [status]).then)
        events.append(self._on(back.click, Session.index_scenes, [], [status]).then)
        for event in events:
            self._on(event, Session.search, [query, without], [results])

    def _build_fit(self, use: Any) -> None:
        gr.HTML(render("fit"))
        kinds = ["Rendered scenes", "My captions and images"]
        source = gr.Radio(kinds, value=kinds[0], label="Fit on", type="index")
        count = gr.Slider(500, 10_000, 2000, step=500, label="Scenes")
        with gr.Column(visible=False) as upload_column:
            gr.HTML(render("columns", ", ".join(TABLES)))
            label = "Captions, and images or a zip of them"
            files = gr.File(label=label, file_count="multiple", height=150, elem_id="files")
            status = gr.HTML(elem_id="ready")

        def show_source(index: int) -> tuple[Any, Any]:
            return gr.Slider(visible=not index), gr.Column(visible=bool(index))

        source.change(show_source, source, [count, upload_column], **_PRIVATE)
        self._on_upload(files, Session.take_files, [], [status])
        finished = self._build_job("Fit", Session.fit_commands, Session.show_fit, [source, count], "fitted")
        self._on(finished, lambda session: gr.Checkbox(visible=session.fitted is not None), [], [use])

    def _build_job(
        self, name: str, commands: Callable[..., Any], result: Callable[..., str], inputs: list[Any], elem_id: str
    ) -> Any:
        """Buttons and output of a long job, of which one runs at a time for all visitors. Returns the event of its end.

        When the job is cancelled, the page closed or the server ended, gradio closes the generator, which ends the job.
        """
        with gr.Row():
            start = gr.Button(name, variant="primary", min_width=120, elem_id=f"run-{elem_id}")
            cancel = gr.Button("Cancel", min_width=120, interactive=False, elem_id=f"cancel-{elem_id}")
        outputs = [start, cancel, gr.HTML(elem_id=elem_id, min_height=60)]

        def update(html: str, busy: bool = True) -> tuple[Any, ...]:
            return gr.Button(interactive=not busy), gr.Button(interactive=busy), html

        async def work(request: gr.Request, *values: Any) -> AsyncIterator[tuple[Any, ...]]:
            session = self._sessions[str(request.session_hash)]
            try:
                with tempfile.TemporaryDirectory(prefix="work-", dir=self._root) as folder:
                    command_lines = await run_in_threadpool(commands, session, Path(folder), *values)
                    with closing(run(command_lines, Path(folder))) as steps:
                        for step in steps:
                            yield update(render("step", *step))
                            await asyncio.sleep(_POLL_SECONDS)
                    html = await run_in_threadpool(result, session, Path(folder))
            except (ValueError, OSError) as error:
                html = render("error", str(error))
            yield update(html, busy=False)

        cancelled = render("note", "Cancelled. Nothing was kept.")
        start.click(lambda: update(""), outputs=outputs, queue=False, **_PRIVATE)
        running = start.click(work, inputs, outputs, concurrency_id="long", concurrency_limit=1, **_PRIVATE)
        running.failure(lambda: update(cancelled, busy=False), outputs=outputs, queue=False, **_PRIVATE)
        cancel.click(None, cancels=running)
        return running.then


def _uploads(payload: Any) -> list[Upload]:
    """The names and paths of uploaded files. Gradio's own function would decode images and keep empty files."""
    files = payload.root if hasattr(payload, "root") else [payload]
    return [(Path(file.orig_name or file.path).name, Path(file.path)) for file in files if file and file.path]


async def _keep_path(path: str) -> str:
    """Leave an uploaded file where it is. A URL that is sent instead of a file is not fetched."""
    return path


def serve(
    model: LABCLIP, model_options: Sequence[str], alignment_options: Sequence[str] = (), *, name: str, host: str,
    port: int, announce: Callable[[str], object], share: bool = False,
) -> None:  # fmt: skip
    """Serve the page until Ctrl-C or SIGTERM. Files of all sessions are then removed.

    `model_options` and `alignment_options` are as in `ModelPair`. `name` is the model's name in the page. `announce` is
    called with the page's address. With `share`, gradio opens a public address through its own server.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="labclip-app-", ignore_cleanup_errors=True) as root:
        # Uploads have their own folder: gradio serves all files of its folder to anyone who knows their path.
        os.environ["GRADIO_TEMP_DIR"] = str(Path(root, "uploads"))
        Path(root, "sessions").mkdir()
        style, script = (Path(__file__).with_name(name).read_text() for name in ("style.css", "page.js"))
        for number, (example, _) in enumerate(EXAMPLES.values()):
            image = Image.fromarray(scenes.sample(1, split="all", **example).render(128)[0])
            style += f"#example-{number} {{ background-image: url({uri(image)}) }}"
        pair = ModelPair(model, model_options, alignment_options)
        page = _Page(pair, Path(root, "sessions"), name=name).blocks
        guard = Middleware(_guard, local=host in _LOCAL, public=share)
        # Fonts of this machine: the default theme loads its fonts from Google.
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
                server.force_exit = True  # otherwise it waits for open pages
            page.close(verbose=False)
            gc.freeze()  # a last collection of all objects would take seconds
