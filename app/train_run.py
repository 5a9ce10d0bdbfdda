"""One training run as it goes: watch it, hold it, try what it has learned, take it away."""

import html
import json
import math
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from app.components import component, script
from app.pictures import EMPTY, data_uri, info_html, on_saved, plain, problem_html, run
from app.private import reason, without_places
from app.server.queueing import DRAWING
from app.sheet_html import Looks, ladder_html
from app.train_mode import Mode
from app.train_new import PREVIEW_ROW
from train.handover.export import SNAPSHOTS
from train.handover.publish import login, pack, push
from train.loop.config import ConfigError
from train.loop.console import duration
from train.runs.jobs import ALIVE, CAN_GO_ON, DEVICE_LOCK, Job, JobError, Runs, as_process, is_held
from train.runs.presets import PRESETS, model_of
from train.runs.progress import Progress
from yoso_core.drawing import PictureError
from yoso_core.lora.library import LoraEntry
from yoso_core.requests import LORA_WEIGHT_RANGE, PROMPT_LIMIT, GenerateRequest, LoraUse, RequestError
from yoso_core.service import Service
from yoso_core.sheets import NO_ADAPTER, Axis, grid
from yoso_core.sheets import run as run_sheet

PREVIEW_WIDTH = 1600  # pixels, at most
COMPARED = 8  # checkpoints beside the untouched model
RULE = f"The two newest checkpoints are kept to go on from, and up to {SNAPSHOTS} LoRAs spread over the steps."
WORDS = {
    "queued": "Waits until the run before it is through.",
    "running": "Training.",
    "paused": "Paused. It goes on exactly where it was.",
    "interrupted": "Interrupted: its process is gone. It goes on from its last checkpoint.",
    "failed": "Stopped by a problem.",
    "finished": "Done.",
    "kept": "Ended and kept.",
}
PLACES = {"controlnet": "the Edit tab under “Follow lines”", "translate": "the Translate tab"}  # by task
ON_DISCARD = "(owner, run, _) => [owner, run, confirm('Remove this run with everything it has learned?')]"
ON_KEEP = "(owner, run, _) => [owner, run, confirm('Stop, and keep what it has learned and nothing to go on from?')]"
ON_THIN = "(owner, run, _) => [owner, run, confirm('Keep what it has learned, and nothing to go on from?')]"
ROWS = '<p class="quiet">Above: captions of your pictures. Below: prompts that it has not seen.</p>'


class RunView:
    """What the page shows of a run that has begun.

    Args:
        engine: draws samples.
        runs: where runs are kept.
        mode: what is allowed.
        loras: what a run has handed over so far, as the engine knows it; its newest first, then its snapshots.
    """

    def __init__(
        self,
        engine: Service,
        runs: Runs,
        mode: Mode,
        loras: Callable[[Job], list[LoraEntry]],
        starts: Callable[[Job], None] = as_process,
    ) -> None:
        self.engine, self.runs, self.mode, self.loras, self.starts = engine, runs, mode, loras, starts
        self.readers: dict[Path, Progress] = {}  # each goes on reading where it was

    def build(self) -> None:
        self.head = gr.HTML(elem_id="run-head")
        with gr.Row(elem_id="run-buttons"):
            self.pause = gr.Button("Pause", size="sm", min_width=0, scale=0, elem_id="pause")
            self.resume = gr.Button("Resume", size="sm", min_width=0, scale=0, elem_id="resume", variant="primary")
            self.keep = gr.Button("Stop and keep", size="sm", min_width=0, scale=0, elem_id="keep-run")
            self.thin = gr.Button("Delete its checkpoints", size="sm", min_width=0, scale=0, elem_id="thin-run")
            self.again = gr.Button("New run with these pictures", size="sm", min_width=0, scale=0, elem_id="again")
            self.discard = gr.Button("Discard", size="sm", min_width=0, scale=0, elem_id="discard")
        self.told = gr.HTML()
        with gr.Row(elem_id="watch"):
            with gr.Column(scale=3, min_width=300):
                gr.HTML("<h3>Previews</h3>")
                self.preview = gr.HTML(EMPTY, elem_id="preview", elem_classes="stage")
                self.scrub = gr.Slider(0, 1, 0, step=1, label="Step", elem_id="scrub", buttons=[], visible=False)
            with gr.Column(scale=2, min_width=280):
                gr.HTML("<h3>Losses</h3>")
                self.curves = component("curves", {}, elem_id="curves")
        with gr.Column(elem_id="trial") as self.trial:
            gr.HTML("<h3>Try it</h3>")
            with gr.Row(elem_classes="line-up"):
                self.prompt = gr.Textbox(
                    label="Prompt",
                    placeholder="Type what you want to see",
                    max_length=PROMPT_LIMIT,
                    elem_id="try-prompt",
                )
                self.seed = gr.Number(0, label="Seed", precision=0, min_width=90, scale=0)
                self.sample = gr.Button("Draw it now", size="sm", scale=0, min_width=130, elem_id="sample")
                self.compare = gr.Button(
                    "Compare checkpoints", size="sm", scale=0, min_width=150, elem_id="compare-checkpoints"
                )
            self.weight = gr.Slider(
                *LORA_WEIGHT_RANGE, 1, step=0.05, label="Weight of what was learned", elem_id="try-weight", buttons=[]
            )
            with gr.Row():
                with gr.Column(scale=1, min_width=200):
                    self.stage = gr.HTML(elem_id="try-stage", elem_classes="stage", js_on_load=script("sheet"))
                    self.info = gr.HTML(elem_classes="info")
                with gr.Column(scale=2, min_width=280):
                    self.sheet = gr.HTML(elem_id="checkpoint-sheet", js_on_load=script("sheet"))
            gr.HTML(f'<p class="quiet">{RULE}</p>')
        with gr.Column(elem_id="use") as self.using:
            gr.HTML("<h3>Use it</h3>")
            self.how = gr.HTML(elem_id="how-to-use")
            with gr.Row(elem_id="use-buttons"):
                self.use = gr.Button("Use in Generate", variant="primary", scale=0, min_width=170, elem_id="use-run")
                self.zip = gr.Button("Download as zip", scale=0, min_width=160, elem_id="zip-run")
            with gr.Accordion("Push to a model hub", open=False, visible=not self.mode.private):
                self.repository = gr.Textbox(
                    label="Repository", placeholder="OWNER/NAME", info="With the login of this machine", max_length=200
                )
                self.hidden = gr.Checkbox(True, label="Private")
                self.push = gr.Button("Push", size="sm", scale=0, min_width=110)
                self.pushed = gr.HTML()
        with gr.Accordion("Log, command and settings", open=False):
            self.log = gr.HTML(elem_id="run-log")
        self.seen = gr.State({})  # what the page shows already, by part

    @property
    def parts(self) -> list[Any]:
        """What `look` sets."""
        return [
            *(self.head, self.pause, self.resume, self.keep, self.thin, self.discard, self.preview, self.scrub),
            *(self.curves, self.trial, self.using, self.how, self.use, self.log, self.seen),
        ]

    def connect(self, owner: Any, selected: Any, look: dict[str, Any], private: dict[str, Any]) -> None:
        """Who listens to whom.

        Args:
            owner: component with the owner's name.
            selected: component with the id of the run.
            look: what to do after every change, as arguments of ``then``.
            private: queue rules of a listener that no program may call.
        """
        own, hidden = [owner, selected], private | {"show_progress": "hidden"}
        # Outside of the column, with which it would appear.
        self.download = gr.DownloadButton(visible="hidden", elem_id="run-download")
        self.pause.click(self.stop_run, own, self.told, **hidden).then(**look)
        self.resumed = self.resume.click(self.resume_run, own, self.told, **hidden)
        self.resumed.then(**look)
        self.sure = gr.Checkbox(visible="hidden")  # what the person answers to a question of the browser
        for button, question in ((self.keep, ON_KEEP), (self.thin, ON_THIN)):
            button.click(self.keep_run, [*own, self.sure], self.told, js=question, **hidden).then(**look)
        self.discard.click(self.discard_run, [*own, self.sure], [selected, self.told], js=ON_DISCARD, **hidden).then(
            **look
        )
        self.scrub.input(self.show_preview, [*own, self.scrub], self.preview, trigger_mode="always_last", **hidden)
        drawing = private | DRAWING
        asked = [*own, self.prompt, self.seed, self.weight]
        gr.on(
            [self.sample.click, self.prompt.submit, self.weight.input],
            self.draw_sample,
            asked,
            [self.stage, self.info],
            trigger_mode="always_last",
            show_progress="minimal",
            show_progress_on=self.stage,
            **drawing,
        )
        self.compare.click(self.draw_checkpoints, asked[:-1], self.sheet, show_progress_on=self.sheet, **drawing)
        self.zip.click(self.pack_run, own, self.download, **hidden).success(None, js=on_saved("run-download"))
        self.push.click(self.push_run, [*own, self.repository, self.hidden], self.pushed, **private)

    # Watch

    def look(self, job: Job, scrubbed: float, seen: dict[str, Any]) -> dict[Any, Any]:
        """What the page has to change to show the run as it is.

        Args:
            job: the run.
            scrubbed: step of the preview that is shown.
            seen: what the page shows already.
        """
        progress, state, steps = self.progress(job), job.state, job.steps
        previews, loras = progress.previews(), self.loras(job)
        checkpoint, handed_over = job.has_checkpoint, (job.folder / "output").is_dir()
        news = {
            "run": job.id,
            "head": (
                state,
                job.stopping,
                job.reason,
                progress.step,
                round(progress.eta),
                progress.saved,
                len(previews),
                "" if progress.time else job.beginning,
            ),
            "buttons": (state, job.stopping, checkpoint, handed_over),
            "curves": (progress.step, progress.time),
            "previews": len(previews),
            "loras": (len(loras), handed_over),
            "log": job.log(),
        }
        before = seen if seen.get("run") == job.id else {}
        changed = {name for name, value in news.items() if before.get(name) != value}
        updates: dict[Any, Any] = {}
        if "head" in changed:
            updates[self.head] = head_html(job, state, progress, steps, self.mode.private)
        if "buttons" in changed:
            going, idle = state in ALIVE and not job.stopping, state in CAN_GO_ON
            updates |= {
                self.pause: gr.Button(visible=going),
                self.resume: gr.Button("Resume" if checkpoint else "Start", visible=idle),
                self.keep: gr.Button(visible=going and handed_over),
                self.thin: gr.Button(visible=not going and checkpoint and state in (*CAN_GO_ON, "finished")),
                self.discard: gr.Button(visible=True),
            }
        if "curves" in changed:
            updates[self.curves] = {"terms": progress.curves(), "steps": steps}
        if "previews" in changed:
            updates |= self._previews(job, previews, scrubbed, before.get("previews"))
        if "loras" in changed:
            updates |= {
                self.trial: gr.Column(visible=bool(loras)),
                self.using: gr.Column(visible=handed_over),
                self.use: gr.Button(visible=bool(loras)),
                self.how: how_html(job, bool(loras), self.mode.private),
            }
        if "log" in changed:
            updates[self.log] = log_html(job, self.mode.private)
        return updates | {self.seen: news} if changed else updates

    def progress(self, job: Job) -> Progress:
        return self.readers.setdefault(job.folder, Progress(job.folder)).update()

    def _previews(self, job: Job, previews: list[Path], scrubbed: float, before: int | None) -> dict[Any, Any]:
        """The newest preview, unless somebody is looking at an older one; `before` is how many there were."""
        if not previews:
            return {self.preview: EMPTY, self.scrub: gr.Slider(visible=False)}
        steps = [int(path.stem) for path in previews]
        stays = before is not None and 1 < before <= len(steps) and scrubbed < steps[before - 1]
        slider = {"minimum": 0, "maximum": max(steps[-1], 1), "step": math.gcd(*steps) or 1, "visible": len(steps) > 1}
        if stays:
            return {self.scrub: gr.Slider(**slider)}
        return {self.scrub: gr.Slider(**slider, value=steps[-1]), self.preview: preview_html(job, previews[-1])}

    def show_preview(self, owner: str, selected: str, step: float) -> Any:
        try:
            previews = self.progress(job := self.runs.get(selected, owner)).previews()
        except JobError:
            return gr.skip()
        return preview_html(job, min(previews, key=lambda path: abs(int(path.stem) - step))) if previews else EMPTY

    # Hold

    def stop_run(self, owner: str, selected: str) -> str:
        return self._told(owner, selected, Job.stop)

    def resume_run(self, owner: str, selected: str) -> str:
        return self._told(owner, selected, self.starts)

    def keep_run(self, owner: str, selected: str, sure: Any) -> str:
        return self._told(owner, selected, Job.keep) if sure is True else ""

    def discard_run(self, owner: str, selected: str, sure: Any) -> tuple[str, str]:
        if sure is not True:
            return selected, ""
        told = self._told(owner, selected, Job.discard)
        return selected if told else "", told

    def _told(self, owner: str, selected: str, act: Any) -> str:
        try:
            act(self.runs.get(selected, owner))
        except (JobError, OSError) as error:
            return problem_html(reason(error))
        return ""

    # Try

    def request(self, owner: str, selected: str, prompt: str, seed: Any, weight: float) -> GenerateRequest:
        """One evaluation with what the run has learned by its last checkpoint.

        Raises:
            JobError: there is no such run, or its model is not among those here.
            RequestError: an impossible value.
        """
        job = self.runs.get(selected, owner)
        if (model := model_of(job.config, self.engine.models)) is None:
            named = job.config.get("model")
            raise JobError(f"Its model {named!r:.80} is not among those of the page; serve it by --add-model.")
        # What was trained by YOSO takes the place of the model's own one-step LoRA.
        one_step = 0.0 if job.about.get("task") == "yoso" else 1.0
        if not (loras := self.loras(job)):
            raise JobError("It has learned nothing yet; wait for its first checkpoint.")
        uses = (LoraUse(loras[0].id, weight),)
        return GenerateRequest(prompt, seed=seed, model=model, one_step=one_step, loras=uses)

    def draw_sample(
        self,
        owner: str,
        selected: str,
        prompt: str,
        seed: Any,
        weight: float,
        progress: gr.Progress = gr.Progress(),
    ) -> tuple[Any, Any]:
        try:
            result = run(self.engine, self.request(owner, selected, prompt, seed, weight), progress)
        except (JobError, RequestError) as error:
            return gr.skip(), problem_html(str(error))
        except gr.Error as error:
            return gr.skip(), problem_html(html.unescape(error.message))
        looks = Looks([result])
        shown = looks.button(0, f"{result.request.prompt or 'no prompt'}, seed {result.seeds[0]}")
        return f'<div class="pictures" {looks.shared}>{shown}</div>', info_html(result)

    def draw_checkpoints(self, owner: str, selected: str, prompt: str, seed: Any) -> Iterator[str]:
        """The same prompt and seed without the LoRA and with that of each step, one after another."""
        try:
            request = self.request(owner, selected, prompt, seed, 1.0)
            snapshots = self.loras(self.runs.get(selected, owner))[:0:-1]
            if not snapshots:
                raise JobError("There are no checkpoints to compare yet.")
            last = len(snapshots) - 1
            spread = {snapshots[index * last // (COMPARED - 1)].id: None for index in range(COMPARED)}
            titles = ["before", *(entry.title.rpartition(", ")[2] for entry in snapshots if entry.id in spread)]
            sheet = grid(replace(request, loras=()), Axis("adapter", (NO_ADAPTER, *spread)))
            sheet, results = replace(sheet, columns=tuple(titles)), []
            for result in run_sheet(self.engine, sheet):
                results.append(result)
                yield ladder_html(sheet, results)
        except (JobError, RequestError, PictureError) as error:
            yield problem_html(str(error))

    # Take away

    def pack_run(self, owner: str, selected: str) -> str:
        try:
            job = self.runs.get(selected, owner)
            folder = Path(self.download.GRADIO_CACHE) / "runs" / job.id
            folder.mkdir(parents=True, exist_ok=True)
            words = re.sub(r"[^a-z0-9]+", "-", job.title.lower()).strip("-")
            return str(pack(job.folder / "output", folder / f"{words or 'run'}.zip"))
        except (ConfigError, JobError, OSError) as error:
            raise gr.Error(plain(reason(error)), print_exception=False) from None

    def push_run(self, owner: str, selected: str, repository: str, private: bool) -> str:
        try:
            if self.mode.private:  # the login of this machine is not everybody's
                raise ConfigError("here nobody can push; download the zip instead")
            job, who = self.runs.get(selected, owner), login()
            if who is None:
                raise ConfigError("nobody is logged in to a hub on this machine; run: hf auth login")
            address = push(job.folder / "output", repository.strip(), who[1], private=bool(private))
        except (ConfigError, JobError) as error:
            return problem_html(str(error))
        return f'<p class="note">It is at <a href="{html.escape(address)}">{html.escape(address)}</a>.</p>'


def head_html(job: Job, state: str, progress: Progress, steps: int, private: bool) -> str:
    """Title, state, and how far it is."""
    about = job.about
    preset = str(about.get("preset") or about.get("task") or "")
    preset = PRESETS[preset].title if preset in PRESETS else preset
    said = "Stops after the step in progress …" if job.stopping else WORDS.get(state, state)
    first = state == "queued" and not is_held(job.folder.parent / DEVICE_LOCK)
    if first or (state == "running" and progress.step == 0 and not progress.time):
        said = f"Begins: {job.beginning or 'reads the model and the pictures'} …"
    if state == "failed" and job.reason:
        why = without_places(job.reason, job) if private else job.reason
        said = f"{said} {why[:1].upper()}{why[1:]}"
    facts = [f"step {progress.step:,} of {steps:,}"]
    if state == "running" and progress.rate:
        facts += [f"{progress.rate:.0f} samples/s", f"{duration(progress.eta)} left"]
    elif progress.seconds:
        facts.append(f"{duration(progress.seconds)} of training")
    if progress.saved:
        facts.append(f"checkpoint of step {progress.saved:,}")
    if memory := progress.expected.get("memory"):
        facts.append(f"{memory / 1e9:.1f} GB of memory")
    facts.append(f"{job.bytes() / 1e6:.0f} MB on disk")
    share, title = min(1.0, progress.step / steps), html.escape(job.title)
    return (
        f'<div class="run-head {state}"><h2>{title} <small>{html.escape(preset)}</small></h2>'
        f'<p class="state" role="status">{html.escape(said)}</p>'
        f'<div class="bar"><div style="width: {share:.2%}"></div></div>'
        f'<p class="figures">{" · ".join(f"<span>{fact}</span>" for fact in facts)}</p></div>'
    )


def command_of(task: str, folder: Path) -> str:
    """What does the same from a shell, on as many devices as there are."""
    settings_file, run = shlex.quote(str(folder / "config.json")), shlex.quote(str(folder))
    return f"accelerate launch -m train {task} --config {settings_file} --run {run}"


def how_html(job: Job, has_loras: bool, private: bool) -> str:
    """What to do with what was learned, where a button can't."""
    output = html.escape(shlex.quote(str(job.folder / "output")))
    if has_loras:
        said = "It is in the list of LoRAs on every tab, with the newest steps as it trains."
    elif place := PLACES.get(str(job.about.get("task"))):
        said = "Take it with you as a zip." if private else f"Choose it on {place}."
    else:
        said = f"It is a whole model: <code>python app.py --add-model {output}</code> serves it."
    return f'<p class="quiet">{said}</p>'


def preview_html(job: Job, path: Path) -> str:
    try:
        with Image.open(path) as picture:
            shown = picture.convert("RGB")
    except OSError:  # gone since it was listed
        return EMPTY
    if shown.width > PREVIEW_WIDTH:
        shown = shown.resize((PREVIEW_WIDTH, PREVIEW_WIDTH * shown.height // shown.width), Image.Resampling.LANCZOS)
    image = f'<img src="{data_uri(shown)}" alt="What the run drew after {int(path.stem):,} steps" draggable="false">'
    probed = job.about.get("task") == "teacher" and len(job.config.get("preview_prompts") or ()) == 2 * PREVIEW_ROW
    return image + (ROWS if probed else "")


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_absolute()


def log_html(job: Job, private: bool) -> str:
    """The end of the log, what was wrong with the data, the command that does the same, and the settings."""
    task, problems = str(job.about.get("task", "")), job.folder / "problems.txt"

    def shown(text: str) -> str:
        return html.escape(without_places(text, job) if private else text)

    parts = [f"<h4>Log</h4><pre>{shown(job.log()) or 'Nothing yet.'}</pre>"]
    if problems.is_file():
        notes = problems.read_text(errors="replace")[:4000]
        parts.append(f"<h4>Notes on the pictures</h4><pre>{shown(notes)}</pre>")
    folder = Path("runs") / job.id if private else job.folder  # where others look, this machine's folders are nobody's
    parts.append(f"<h4>The same from a shell</h4><pre>{html.escape(command_of(task, folder))}</pre>")
    values = {key: Path(value).name if _is_path(value) and private else value for key, value in job.config.items()}
    settings = json.dumps(values, indent=1)
    parts.append(f"<h4>Settings</h4><pre>{html.escape(settings)}</pre>")
    return "".join(parts)
