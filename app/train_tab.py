"""The Train tab: runs to begin, to watch and to use. The work is done by `train`, in processes of their own."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from app import space
from app.components import component, sent_along
from app.drawing import Drawing
from app.edit_tab import OWN_CONTROL
from app.lora_picker import OWN
from app.pictures import plain, problem_html
from app.server.lent_training import LentTraining
from app.settings import Settings
from app.styles import ANY_STYLE, NO_STYLE, with_style
from app.train_mode import Mode, owner_of
from app.train_new import NewRun
from app.train_run import RunView
from train.runs.estimates import Estimates
from train.runs.jobs import CAN_GO_ON, Job, JobError, Runs, as_process
from train.runs.presets import model_of
from yoso_core.cached import LORA_FILE
from yoso_core.checkpoints import ModelError, Source
from yoso_core.conditioning import ControlSpec
from yoso_core.drawing import PictureError
from yoso_core.files.metadata import Restored
from yoso_core.lora.library import CARD_FILE, LoraEntry, of_run
from yoso_core.models import ModelSpec
from yoso_core.requests import RequestError
from yoso_core.service import Service
from yoso_core.translate import CONFIG, read_translator

HANDED_OVER = {"controlnet": "diffusion_pytorch_model.safetensors", "translate": CONFIG}  # by task: a file of it
TRAINED_ON = ("canny", "scribble", "map")  # the maps that a ControlNet is trained on here
EVERY, SELDOM = 2.0, 20.0  # seconds between looks at the runs: on this tab, and on others, which offer their LoRAs
TOKEN = 32  # bytes that tell one browser from another
# The style sheet hides the prompt above and the settings beside a tab that has no use for them.
ON_TAB = "name => { document.body.dataset.tab = name; }"
PACE = f"name => name === 'train' ? {EVERY:.0f} : {SELDOM:.0f}"
OFF = """
<div class="report"><p>Nothing is trained here: this is a public demo that many people share.</p>
<p>On a machine of your own, <code>make run</code> brings this tab with everything: thirty pictures become a LoRA in
two minutes on two CPU cores.</p></div>
"""


class TrainTab:
    """The tab and what keeps it true.

    Args:
        engine: gets the LoRAs.
        settings: the controls that all tabs share.
        root: folder of the runs.
        mode: what may be trained here.
        lent: trains where a GPU is lent for it; None where runs are processes of their own.
    """

    name = "train"

    def __init__(
        self, engine: Service, settings: Settings, root: Path, mode: Mode, lent: LentTraining | None = None
    ) -> None:
        mode = replace(mode, minutes=lent.minutes) if lent else mode
        starts = waits_for_gpu if lent else as_process
        self.engine, self.settings, self.mode, self.lent = engine, settings, mode, lent
        self.runs = Runs(root, mode.private)
        self.new = NewRun(engine, self.runs, mode, Estimates(root / "estimates.json"), starts)
        self.view = RunView(engine, self.runs, mode, self.entries, starts)
        # What was handed over, by run: the files with their times, and what they are.
        self.offered: dict[Path, tuple[tuple[Any, ...], list[LoraEntry]]] = {}
        self.known: dict[Path, int] = {}  # when what the engine knows of a run was written

    def build(self) -> None:
        if not self.mode.presets:
            gr.HTML(OFF)
            gr.DuplicateButton("Duplicate this Space", visible=bool(space.name()))
            return
        self.token = gr.BrowserState("", storage_key="yoso-owner", secret="yoso")  # it is a secret itself
        self.owner, self.selected = gr.State(""), gr.Textbox("", visible="hidden")
        self.list = component("run_list", {"id": "", "runs": []}, elem_id="runs")
        with gr.Column(elem_id="new-run") as self.begin:
            self.new.build()
        with gr.Column(visible=False, elem_id="run") as self.watch:
            self.view.build()
        self.told = gr.State(())  # what the page knows of the list

    def connect(self, drawing: Drawing, load: Callable[..., Any], private: dict[str, Any]) -> None:
        """Who listens to whom.

        Args:
            drawing: draws with what was learned.
            load: the event of a page that opens.
            private: queue rules of a listener that no program may call.
        """
        active, self.restored = drawing.active, drawing.restored
        active.change(None, active, js=ON_TAB)
        if not self.mode.presets:
            return
        train = private | {"concurrency_id": "train", "concurrency_limit": 8}
        quiet = train | {"show_progress": "hidden"}
        reading = private | {"concurrency_id": "pictures", "concurrency_limit": 2}  # of pictures, which takes a while
        picker = self.settings.picker
        state = [self.owner, self.selected, self.settings.model, picker.loras, picker.own, self.told]
        self.network, self.trained = drawing.tabs["edit"].network, drawing.tabs["translate"].trained
        state += [self.view.seen, self.view.scrub, self.network]
        parts = [self.list, self.begin, self.watch, self.told, picker.loras, picker.own, self.network, self.trained]
        parts += self.view.parts
        look = {"fn": self.look, "inputs": state, "outputs": parts, **quiet}
        choice = [self.new.preset, self.new.base, self.new.form, self.new.known]
        pictures = self.new.pictures
        entered = load(self.enter, self.token, [self.token, self.owner, self.selected], **quiet)
        entered.then(**look)
        entered.then(self.new.choose, [*choice[:2], self.new.title], self.new.chosen, **quiet)
        entered.then(self.new.shown, [self.owner, self.new.base], pictures, **reading | {"show_progress": "hidden"})
        self.timer = gr.Timer(SELDOM)  # outside of the tab, which Gradio makes only when it is opened
        active.change(None, active, self.timer, js=PACE).then(**look)
        active.change(self.new.offer, [active, self.new.base], self.new.base, **quiet)
        self.list.select(self.choose, None, self.selected, **quiet)
        self.selected.change(**look)
        self.timer.tick(**look)
        self.timer.tick(
            self.reprice,
            [active, self.selected, *choice],
            [self.new.cost, self.new.known],
            trigger_mode="once",
            **quiet,
        )
        self.new.connect(self.owner, self.selected, reading)
        self.view.connect(self.owner, self.selected, look, train)
        if self.lent:
            calling = private | {"concurrency_id": "lent", "concurrency_limit": 4, "show_progress": "hidden"}
            for begun in (self.new.begun, self.view.resumed):
                begun.then(self.train_here, [self.owner, self.selected], self.view.told, **calling).then(**look)
        self.view.again.click(
            self.new.again,
            [self.owner, self.selected],
            [self.selected, self.view.told, self.new.title, self.new.trigger],
            **quiet,
        ).then(self.new.shown, [self.owner, self.new.base], pictures, **quiet)
        used = {self.owner, self.selected, *drawing.asked}
        hidden = private | {"show_progress": "hidden", "show_progress_on": self.view.told}
        self.view.use.click(self.use_run, used, drawing.restores, **hidden)

    def enter(self, token: Any) -> tuple[str, str, str]:
        """Who opened the page, and the run to show first: one that is not done, else the form."""
        token = token if isinstance(token, str) and len(token) >= TOKEN else secrets.token_urlsafe(TOKEN)
        owner = owner_of(token, self.mode)
        going = [job.id for job in self.runs.all(owner) if job.state in ("queued", "running", "paused", "interrupted")]
        return token, owner, going[0] if going else ""

    def train_here(self, owner: str, selected: str) -> Iterator[str]:
        """Train in a call of this page, which has to stay open for it."""
        try:
            job = self.runs.get(selected, owner)
            if job.state not in CAN_GO_ON:
                return
            yield '<p class="note">It trains on a lent GPU as long as this page is open.</p>'
            for _ in self.lent.run(job):
                yield gr.skip()
        except (JobError, PictureError) as error:
            yield problem_html(str(error)) if selected else ""
            return
        yield ""

    def recall(self) -> None:
        """Make known what the runs of this machine have handed over, where all of them are one person's."""
        if self.mode.presets and not self.mode.private:
            for job in self.runs.all(""):
                self.entries(job)

    def choose(self, event: gr.EventData) -> str:
        return str(sent_along(event).get("id", ""))

    def look(
        self,
        owner: str,
        selected: str,
        model: str,
        loras: Any,
        own: list[str],
        told: tuple[Any, ...],
        seen: dict[str, Any],
        scrubbed: float,
        network: str,
    ) -> Any:
        """What has changed since the last look: the list, the run on the page, the LoRAs on all tabs."""
        self._forget_discarded()
        jobs = [job for job in self.runs.all(owner) if job.state != "draft"]
        updates: dict[Any, Any] = {}
        job = next((job for job in jobs if job.id == selected), None)
        selected = job.id if job else ""
        news = tuple(self._listed(job) for job in jobs)
        networks, translators = (self._networks(jobs, task) for task in HANDED_OVER)
        if told != (selected, news, networks, translators):
            updates |= {
                self.told: (selected, news, networks, translators),
                self.list: {"id": selected, "runs": [dict(entry) for entry in news]},
                self.begin: gr.Column(visible=not selected),
                self.watch: gr.Column(visible=bool(selected)),
                self.network: gr.Dropdown(
                    [OWN_CONTROL, *networks],
                    value=network if network in dict(networks).values() else OWN_CONTROL[1],
                    visible=bool(networks),
                ),
                self.trained: translators,
            }
        mine = [entry for job in jobs for entry in self.entries(job)]
        names = [entry.id for entry in mine]
        others = [name for name in own if not name.startswith("run-")]
        if [*names, *others] != own:
            spec = self.engine.models.get(model)
            here = {OWN, *names, *others, *self.settings.picker.shared}
            kept = {name: weight for name, weight in (loras or {}).items() if name in here}
            updates[self.settings.picker.own] = [*names, *others]
            if spec is not None:
                cards = self.settings.picker.cards(spec, [*names, *others])
                changed = {"value": kept} if kept != loras else {}
                updates[self.settings.picker.loras] = gr.HTML(entries=cards, **changed)
        updates |= self.view.look(job, scrubbed, seen) if job else {}
        return updates or gr.skip()

    def _listed(self, job: Job) -> tuple[tuple[str, Any], ...]:
        progress = self.view.progress(job)
        share = round(min(1.0, progress.step / job.steps), 2)
        entry = {"id": job.id, "title": job.title, "state": job.state, "progress": share}
        return tuple(entry.items())

    def entries(self, job: Job) -> list[LoraEntry]:
        """What a run has handed over, made known to the engine; read anew where a file has changed."""
        output, snapshots = job.folder / "output", job.folder / "snapshots"
        # Cards and pictures too: they are written after the weights that they tell of.
        files = [output / LORA_FILE, output / CARD_FILE, *sorted(snapshots.glob("step-*"))]
        marks = tuple((str(path), time) for path in files if (time := _modified(path)))
        before, found = self.offered.get(job.folder, ((), []))
        if marks != before:
            found = of_run(job.folder)
            self.offered[job.folder] = (marks, found)
            for entry in found:
                self.settings.picker.remember(entry)
        return found

    def _networks(self, jobs: list[Job], task: str) -> tuple[tuple[str, str], ...]:
        """Title and name of what runs of a task have handed over; nothing where its name would be told to others."""
        mine = [job for job in jobs if job.about.get("task") == task and not self.mode.private]
        return tuple((job.title, _name(job)) for job in mine if self._is_known(job, task))

    def _is_known(self, job: Job, task: str) -> bool:
        """Whether the engine knows what a run has handed over; it is told anew where that has changed."""
        time = _modified(job.folder / "output" / HANDED_OVER[task])
        if time and self.known.get(job.folder) != time:
            model = model_of(job.config, self.engine.models)
            if model is None or not self._add(job, task, self.engine.models[model]):
                return False
            self.known[job.folder] = time
        return bool(time)

    def _add(self, job: Job, task: str, model: ModelSpec) -> bool:
        output = job.folder / "output"
        if task == "controlnet":
            source = Source(str(output))
            spec = ControlSpec(job.title, source, model.licence, model.family, TRAINED_ON)
            self.engine.add_control(_name(job), spec)
            return True
        try:
            self.engine.add_translator(_name(job), replace(read_translator(output), title=job.title))
        except ModelError:
            return False
        return True

    def _forget_discarded(self) -> None:
        for folder in [folder for folder in list(self.view.readers) if not folder.exists()]:
            self.view.readers.pop(folder, None)
        for folder in [folder for folder in list(self.known) if not folder.exists()]:
            self.known.pop(folder, None)
            self.engine.remove_control(_name(Job(folder)))
            self.engine.remove_translator(_name(Job(folder)))
        for folder in [folder for folder in list(self.offered) if not folder.exists()]:
            for entry in self.offered.pop(folder, ((), []))[1]:
                self.settings.picker.drop(entry.id)

    def reprice(self, active: str, selected: str, preset: str, model: str, form: Any, known: str) -> tuple[Any, Any]:
        """The cost of the run on the form, once it has been measured."""
        if active != self.name or selected:
            return gr.skip(), gr.skip()
        cost, now = self.new.price(preset, model, form)
        return (gr.skip(), gr.skip()) if now == known else (cost, now)

    def use_run(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """Draw with what the run has learned, on the Generate tab, with the prompt and seed that are there."""
        owner, selected, settings = values[self.owner], values[self.selected], self.settings
        try:
            trigger = str(self.runs.get(selected, owner).config.get("trigger", ""))
            request = self.view.request(owner, selected, values[settings.prompt], values[settings.seed], 1.0)
            words = request.prompt.strip()
            if trigger.lower() not in words.lower():
                words = ", ".join(filter(None, (words, trigger)))
            # The style is its last words, so that its chip is found again; what the trigger calls is style enough.
            style = NO_STYLE if trigger and values[settings.style] == ANY_STYLE else values[settings.style]
            words = with_style(words, style, self.engine.models[request.model].styles)
            return self.restored(Restored(replace(request, prompt=words)), values)
        except (JobError, RequestError) as error:
            raise gr.Error(plain(str(error)), print_exception=False) from None


def waits_for_gpu(job: Job) -> None:
    """How a run begins that trains in a call: it waits for that."""
    job.set_state("paused")


def _name(job: Job) -> str:
    """Of what a run has handed over, in the engine."""
    return f"run-{job.id}"


def _modified(path: Path) -> int:
    """When a file was written, in nanoseconds; 0 where it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:  # the trainer may just have thinned its snapshots
        return 0
