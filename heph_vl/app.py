"""The page of `heph-vl app`: search, caption, detect and draw interferograms in a browser.

Files reach it by upload alone, and it needs no network: fonts are the system's, nothing is fetched,
nothing reported. What the tabs compute is in `heph_vl.serving`.
"""

import html
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markdown_it import MarkdownIt
from starlette.middleware import Middleware

from heph_vl import __version__, serving
from heph_vl.app_guard import NothingFetched, answered, gr
from heph_vl.data.annotations import ACTIVITY_TYPES
from heph_vl.data.phase import colour
from heph_vl.gallery import gallery
from heph_vl.hub import model_folder
from heph_vl.index import Index
from heph_vl.motion import WAVELENGTH_M
from heph_vl.once import Models, models_of
from heph_vl.serving import CALM, MAX_DRAWN, MAX_GUIDANCE, MAX_RESULTS, MAX_STEPS, MAX_TEXT

TITLE = "heph_vl: interferograms of volcanoes, in words"
MAX_UPLOAD = "50mb"
_WAITING = 32  # requests that wait at most; others are asked to come again
_HOUR = 3600
_SHOW = ["download", "fullscreen"]
_WIDTHS = "5%", "9%", "20%", "16%", "37%", "13%"  # of the columns of results
_KINDS = [".png", ".tif", ".tiff"]
_QUESTIONS = [
    "Sill-type deformation of high intensity on the left",
    "Mogi, top right",
    "Dyke with turbulent mixing",
    "No deformation, vertical stratification",
]
_SENTENCES = [
    "Mogi-type deformation of high intensity on the left",
    "An earthquake deformation pattern on the left side",
    "No deformation. Turbulent mixing on the wider area",
]
_STYLE = """
.legend {display: flex; gap: .6em; align-items: center; font-size: .85em; flex-wrap: wrap}
.legend .bar {width: 220px; height: 14px; border-radius: 2px}
.whole .grid-wrap {min-height: 0; max-height: none; overflow: hidden}
.whole, .whole > div {min-height: 0 !important}
.wide .thumbnail-lg {aspect-ratio: 1.42 !important}
[role=grid] th *, [role=grid] td * {font-family: var(--font) !important}
.card a {padding: 0}
.card pre, .card table {display: block; overflow-x: auto}
.card table {border: 0 !important; padding: 0 !important}
.foot {font-size: .85em; opacity: .85}
"""


def prepare(
    *,
    index: Path | None = None,
    retriever: str | None = None,
    heads: str | None = None,
    captioner: str | None = None,
    generator: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    announce: Callable[[str], None] = print,
) -> Models:
    """What a page needs: the folders of its models, and a gallery, made if it is not there.

    Args:
        index: Folder of an index to search; the gallery if None.
        retriever: Folder or `user/repo`; of an index the one that made it, else reference weights.
        heads: Likewise; the reference weights if None.
        captioner: Likewise.
        generator: Likewise.
        progress: Called with patches of the gallery done and of all.
        announce: Told in one line what takes a while.

    Returns:
        The models, none of them loaded.

    Raises:
        HephError: A model or the index is not there.
    """
    folders = {
        "heads": model_folder(heads, "heads"),
        "captioner": model_folder(captioner, "captioner"),
        "generator": model_folder(generator, "generator"),
    }
    searching = model_folder(retriever, "retriever")
    if index is None or retriever is not None:
        folders = {"retriever": searching} | folders
    if index is not None:
        Index.open(index)
    found = gallery(searching, progress, announce)
    return models_of(folders, found, index, gr.Warning)


def page(models: Models) -> Any:
    """The page, not yet served.

    Args:
        models: What its tabs ask.

    Returns:
        `gradio.Blocks`.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as blocks:
        gr.HTML(_head())
        with gr.Tab("Search"):
            _search_tab(models)
        with gr.Tab("Caption"):
            _caption_tab(models)
        with gr.Tab("Detect"):
            _detect_tab(models)
        with gr.Tab("Generate"):
            _generate_tab(models)
        gr.HTML(_legend())
        with gr.Accordion("Model cards: what the models reach, and what they miss", open=False):
            for name, folder in models.folders.items():
                with gr.Tab(name):
                    gr.HTML(_card(folder), elem_classes="card")
        gr.HTML(_foot())
    blocks.queue(max_size=_WAITING, api_open=False)
    return blocks


def serve(blocks: Any, *, host: str, port: int, browser: bool = False, wait: bool = True) -> str:
    """Serve a page until Ctrl-C.

    Args:
        blocks: Of `page`.
        host: Address to listen at.
        port: Likewise.
        browser: Whether to open a browser.
        wait: Whether to stay, or to come back while it is served.

    Returns:
        Its address.
    """
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=not wait,
        share=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        allowed_paths=[],
        max_file_size=MAX_UPLOAD,
        app_kwargs={"middleware": [Middleware(NothingFetched)]},
        quiet=True,
        theme=gr.themes.Default(
            primary_hue="sky",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
        css=_STYLE,
    )
    return str(address)


def _search_tab(models: Models) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            text = gr.Textbox(
                label="What to look for, in words", lines=2, max_length=MAX_TEXT, autofocus=True
            )
            gr.Examples(_QUESTIONS, text, label="For example", api_visibility="private")
            with gr.Accordion("or an interferogram like this one", open=False):
                image, coherence = _uploads()
            with gr.Accordion("Filters", open=False):
                kinds = gr.Dropdown(
                    [*ACTIVITY_TYPES, CALM], multiselect=True, label="Any of these kinds"
                )
                frame = gr.Textbox(label="Frame", placeholder="124D_05291_081406")
                with gr.Row():
                    since = gr.Textbox(label="From", placeholder="2017-01", min_width=120)
                    until = gr.Textbox(label="To", placeholder="2018-12-31", min_width=120)
                more = gr.Textbox(label="And", placeholder="low_coherence = FALSE")
            number = gr.Slider(1, MAX_RESULTS, 12, step=1, label="Results")
            heat = gr.Checkbox(True, label="Dim what does not agree with the question")
            button = gr.Button("Search", variant="primary")
        with gr.Column(scale=2):
            gr.Markdown(_what_is_searched(models))
            read = gr.Textbox(label="How it was read", lines=2, interactive=False)
            pictures = gr.Gallery(
                show_label=False,
                columns=4,
                height="auto",
                elem_classes="whole",
                buttons=["fullscreen"],
            )
            table = _table(
                "Results", ["", "score", "frame", "dates", "caption", "source"], *_WIDTHS
            )
    asked = [text, image, coherence, kinds, frame, since, until, more, number, heat]
    for trigger in (button.click, text.submit):
        _on(trigger, partial(serving.search, models), asked, [pictures, table, read], pictures)


def _caption_tab(models: Models) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            image, coherence = _uploads()
            button = gr.Button("Describe", variant="primary")
            _examples(models, image, coherence)
        with gr.Column(scale=2):
            text = gr.Textbox(label="Caption", lines=2, interactive=False)
            notes = gr.Textbox(label="How sure", interactive=False)
            picture = _picture("Where each sentence comes from")
            table = _table(
                "Facts", ["fact", "confidence: share of sampled texts that tell it"], "60%", "40%"
            )
    _on(
        button.click,
        partial(serving.caption, models),
        [image, coherence],
        [text, table, picture, notes],
        picture,
    )


def _detect_tab(models: Models) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            image, coherence = _uploads()
            button = gr.Button("Detect", variant="primary")
            _examples(models, image, coherence)
        with gr.Column(scale=2):
            summary = gr.Textbox(label="Summary", lines=2, interactive=False)
            with gr.Row():
                picture = _picture("Outlines")
                labels = _table("Probabilities", ["group", "label", "p"], "36%", "44%", "20%")
            outlines = _table(
                "Outlines, largest first; motion along the line of sight",
                ["type", "p", "motion", "volcanoes near"],
                *("18%", "10%", "42%", "30%"),
            )
            files = gr.File(
                label="Mask (class ids), and outlines as GeoJSON", interactive=False, height=160
            )
    _on(
        button.click,
        partial(serving.detect, models),
        [image, coherence],
        [picture, summary, labels, outlines, files],
        picture,
    )


def _generate_tab(models: Models) -> None:
    own = serving.own_guidance(models.folders["generator"])
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            prompt = gr.Textbox(
                label="What is to be seen; nothing for anything", lines=2, max_length=MAX_TEXT
            )
            gr.Examples(_SENTENCES, prompt, label="For example", api_visibility="private")
            number = gr.Slider(1, MAX_DRAWN, 4, step=1, label="Pictures")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed")
            steps = gr.Slider(4, MAX_STEPS, 20, step=1, label="Steps of the sampler")
            guidance = gr.Slider(
                0, MAX_GUIDANCE, own, step=0.5, label="Guidance by the text; 0: none, 1: as learnt"
            )
            palette = gr.Radio(
                [("new (since October 2020)", "new"), ("old", "old")],
                value="new",
                label="LiCSAR's colours",
            )
            button = gr.Button("Draw", variant="primary")
        with gr.Column(scale=2):
            gr.Markdown(
                "**Generated, not observations.** Each picture is 21 km a side: wrapped phase, "
                "and its coherence (black 0, white 1)."
            )
            read = gr.Textbox(label="How it was read", lines=2, interactive=False)
            pictures = gr.Gallery(
                show_label=False,
                columns=2,
                height="auto",
                elem_classes=["whole", "wide"],
                object_fit="contain",
                format="png",
            )
    asked = [prompt, number, seed, steps, guidance, palette]
    _on(button.click, partial(serving.generate, models), asked, [pictures, read], pictures)


def _on(
    trigger: Any, answer: Callable[..., Any], inputs: list[Any], outputs: list[Any], busy: Any
) -> None:
    """Ask when triggered; `busy` is where it shows that it is being answered, or that it failed."""
    trigger(answered(answer), inputs, outputs, api_visibility="private", show_progress_on=busy)


def _uploads() -> tuple[Any, Any]:
    """Inputs for an interferogram and its coherence."""
    label = "LiCSAR PNG, or GeoTIFF of phase [rad]"
    image = gr.File(label=label, file_types=_KINDS, height=110)
    with gr.Accordion("Its coherence (estimated without)", open=False):
        coherence = gr.File(label="Coherence: PNG or GeoTIFF", file_types=_KINDS, height=110)
    return image, coherence


def _examples(models: Models, image: Any, coherence: Any) -> None:
    """Simulated pictures; a click makes one the upload."""
    found = models.gallery.examples()
    gr.Markdown("or click a simulated example:")
    pictures = gr.Gallery(
        [(_opened(phase), kind) for phase, _, kind in found],
        show_label=False,
        columns=3,
        height="auto",
        elem_classes="whole",
        allow_preview=False,
        interactive=False,
        buttons=[],
    )

    def choose(work: Path, number: int) -> list[str]:
        return [str(shutil.copy(path, work)) for path in found[number][:2]]

    def chosen(event: gr.SelectData) -> Iterator[Any]:
        yield from answered(choose)(event.index)

    pictures.select(chosen, None, [image, coherence], api_visibility="private")


def _opened(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.convert("RGB")


def _picture(label: str) -> Any:
    # Its label would lie over the picture.
    return gr.Image(label=label, show_label=False, format="png", buttons=_SHOW, interactive=False)


def _table(label: str, headers: list[str], *widths: str) -> Any:
    return gr.Dataframe(
        label=label,
        headers=headers,
        column_widths=list(widths),
        datatype="str",
        type="array",
        interactive=False,
        wrap=True,
    )


def _what_is_searched(models: Models) -> str:
    if models.data is not None:
        return (
            "Searched here: a small gallery of **simulated** interferograms, 75 km a side, with "
            "simulated dates. For your own: `heph-vl index FOLDER INDEX`, then "
            "`heph-vl app --index INDEX`."
        )
    return "Searched here: your index."


def _head() -> str:
    import torch

    device = "on the GPU" if torch.cuda.is_available() else "on the CPU: no CUDA GPU was found"
    return (
        f"<h1>{TITLE}</h1><p>Find Sentinel-1 interferograms by words, describe them, see what "
        "deforms, and draw them from a sentence. <b>Trained on simulated interferograms only: do "
        f"not watch a volcano with it.</b> The models run {device}.</p>"
    )


def _legend() -> str:
    """What the colours mean, in LiCSAR's own."""
    shades = colour(np.linspace(-np.pi, np.pi, 33, dtype=np.float32)[None])[0]
    stops = ", ".join(f"rgb({r},{g},{b})" for r, g, b in shades)
    fringe = WAVELENGTH_M / 2 * 100
    return (
        "<div class='legend'><span>Wrapped phase</span><span>-&pi;</span>"
        f"<span class='bar' style='background: linear-gradient(to right, {stops})'></span>"
        "<span>&pi;</span>"
        f"<span>One fringe (2&pi;) is {fringe:.2f} cm along the line of sight.</span>"
        "<span>Phase grows away from the satellite (colours since October 2020). White: no data."
        "</span></div>"
    )


def _foot() -> str:
    return (
        f"<p class='foot'>heph_vl {__version__}, MIT licence. Made for COMET LiCSAR products, "
        "which contain modified Copernicus Sentinel data, and for the Hephaestus dataset (Bountos "
        "et al., 2022). Uploads are removed after an hour or two.</p>"
    )


def _card(folder: Path) -> str:
    """A model's card as HTML, without front matter, pictures and HTML of its own.

    It may be a third party's: a picture would tell them who looks at the page. Links lead nowhere
    but to the web.
    """
    try:
        text = (folder / "README.md").read_text("utf-8-sig", errors="replace")
    except OSError:
        return f"<p>{html.escape(folder.name)}: no card beside this model.</p>"
    text = re.sub(r"\A---[ \t]*\n(?:.*?\n)??---[ \t]*(?:\n|\Z)", "", text, flags=re.DOTALL)
    reader = MarkdownIt().enable("table")
    for kind in ("image", "html_block", "html_inline"):
        reader.add_render_rule(kind, lambda *_: "")
    reader.add_render_rule("link_open", _link_open)
    reader.add_render_rule("link_close", lambda *given: "</a>" if given[-1]["web"] else "")
    return str(reader.render(text))


def _link_open(reader: Any, tokens: Any, i: int, options: Any, env: Any) -> str:
    """The start of a link to the web; of others (files beside the card) the text alone is shown."""
    env["web"] = str(tokens[i].attrGet("href")).startswith(("http:", "https:"))
    if not env["web"]:
        return ""
    tokens[i].attrSet("target", "_blank")
    tokens[i].attrSet("rel", "noopener noreferrer")
    return str(reader.renderToken(tokens, i, options, env))
