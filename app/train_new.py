"""A new training run: pictures in, a look at them, what to train, and what it will take."""

import html
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gradio as gr

from app.components import component, sent_along
from app.config_form import build_form, fields_of, read_form
from app.pictures import data_uri, plain, problem_html
from app.private import reason
from app.server.visitors import VISITOR
from app.train_mode import Mode
from train.data.captioner import Captioner
from train.data.datasets import Dataset, Report, Row
from train.data.listings import Problem
from train.loop.config import ConfigError
from train.loop.console import duration
from train.runs.estimates import Estimate, Estimates
from train.runs.jobs import DEVICE_LOCK, STANDBY, Job, JobError, Runs, as_process, is_held
from train.runs.presets import PRESETS, pictures_of, settings
from train.tasks.base import ModelRunConfig
from train.tasks.translate_data import domain_of
from yoso_core.files.pictures import SUFFIXES
from yoso_core.models import ModelSpec
from yoso_core.requests import PROMPT_LIMIT, RequestError, check_text
from yoso_core.service import Service
from yoso_core.words import COMMON, Words, words_in

SHOWN = 200  # pictures of a set on the page
TITLE_LIMIT = 60
WORD_LIMIT = 40
FILES = [*SUFFIXES, ".txt", ".caption", ".zip", ".json", ".jsonl", ".csv", ".tsv"]
NOTHING = Report((), 0, 0)
NAMES = {preset.name for preset in PRESETS.values()}
FEW = 20  # pictures
TOO_FEW = (
    "a run learns them by heart rather than their style, and its previews look better than what other prompts give. "
    "Twenty and more of them, or more variety, help."
)
PREVIEW_ROW = 8  # preview pictures in a row
PROBES = 40  # names of the model that are looked at for prompts that a run has not seen
WAITING = "Drop pictures above to begin. Captions may come along: a <code>.txt</code> of the same name for each."


class NewRun:
    """The form that begins a run.

    Args:
        engine: knows the models.
        runs: where runs are kept.
        mode: what may be trained.
        estimates: what a run takes on this machine.
    """

    def __init__(
        self,
        engine: Service,
        runs: Runs,
        mode: Mode,
        estimates: Estimates,
        starts: Callable[[Job], None] = as_process,
    ) -> None:
        self.engine, self.runs, self.mode, self.estimates, self.starts = engine, runs, mode, estimates, starts
        self.beginning = threading.Lock()  # what is counted, looked at and begun must be the same

    @property
    def models(self) -> dict[str, ModelSpec]:
        """Those that runs may begin from, by name; some may have been put on the shelf a moment ago."""
        known = list(self.engine.models.items())
        return {name: spec for name, spec in known if not self.mode.models or name in self.mode.models}

    def offer(self, active: str, base: str) -> Any:
        """The models to choose from, when the tab of this name is opened."""
        if active != "train":
            return gr.skip()
        models = self.models
        value = base if base in models else next(iter(models))
        return gr.Dropdown([(spec.title, name) for name, spec in models.items()], value=value)

    def build(self) -> None:
        first = next(iter(self.mode.presets))
        gr.HTML("<h3>1. Pictures</h3>")
        self.files = gr.File(
            file_count="multiple",
            file_types=FILES,
            label="Drop pictures, captions or a zip",
            height=132,
            elem_id="train-files",
        )
        with gr.Row(visible=not self.mode.private, elem_classes="line-up"):
            self.place = gr.Textbox(
                label="Or a folder of this machine",
                placeholder="/home/me/pictures",
                max_length=1000,
                max_lines=1,
                elem_id="place",
            )
            self.take = gr.Button("Take its pictures", size="sm", scale=0, min_width=150)
        self.report = gr.HTML(f'<p class="quiet">{WAITING}</p>', elem_id="report")
        with gr.Column(visible=False, elem_id="captions") as self.captions:
            with gr.Row(elem_classes="line-up"):
                self.trigger = gr.Textbox(
                    "",  # not None while it is hidden
                    label="Trigger words (optional)",
                    placeholder="words that call the style; without any it comes with the LoRA itself",
                    max_length=80,
                    max_lines=1,
                    elem_id="trigger",
                )
                self.add_words = gr.Button("Add to all captions", size="sm", scale=0, min_width=150)
                self.describe = gr.Button(
                    "Write missing captions", size="sm", scale=0, min_width=170, visible=not self.mode.private
                )
            self.table = component("picture_table", pictures=[], more=0, elem_id="picture-table")
            self.clear = gr.Button("Remove all pictures", size="sm", scale=0, min_width=150)
        gr.HTML("<h3>2. What to train</h3>")
        self.preset = gr.Radio(
            [(PRESETS[name].title, name) for name in self.mode.presets],
            value=first,
            label="Preset",
            container=False,
            elem_id="preset",
            elem_classes="chips",
        )
        self.about = gr.HTML(elem_id="preset-about")
        with gr.Row(elem_classes="line-up"):
            self.title = gr.Textbox(
                PRESETS[first].name,
                label="Name",
                max_length=TITLE_LIMIT,
                max_lines=1,
                elem_id="run-title",
                min_width=240,
            )
            self.base = gr.Dropdown(
                [(spec.title, name) for name, spec in self.models.items()],
                value=next(iter(self.models)),
                label="Base model",
                elem_id="run-base",
                min_width=240,
            )
        with gr.Column(visible=False, elem_id="domains") as self.domains:
            with gr.Row(elem_classes="line-up"):
                self.words = [
                    gr.Textbox(
                        label=f"Word of the {which} look",
                        info="In the captions of its pictures alone",
                        max_length=WORD_LIMIT,
                        max_lines=1,
                        elem_id=f"{which}-look",
                    )
                    for which in ("first", "second")
                ]
            self.shares = gr.HTML(elem_id="domain-shares")
        with gr.Accordion("Advanced: every setting", open=False, visible=self.mode.advanced, elem_id="run-advanced"):
            self.form = build_form("run-form", self.fields(first, next(iter(self.models))))
        gr.HTML("<h3>3. Start</h3>")
        self.cost = gr.HTML(elem_id="cost")
        self.start = gr.Button("Start training", variant="primary", elem_id="start", scale=0, min_width=180)
        self.told = gr.HTML(elem_id="start-told")
        self.known = gr.State("")  # what the cost on the page was worked out from
        self.used = gr.State(())  # captions of the pictures that are used

    @property
    def pictures(self) -> list[Any]:
        """What `shown` sets."""
        return [self.report, self.captions, self.table, self.used]

    @property
    def chosen(self) -> list[Any]:
        """What `choose` sets."""
        return [self.form, self.about, self.cost, self.known, self.title, self.domains, *self.words]

    def connect(self, owner: Any, selected: Any, private: dict[str, Any]) -> None:
        """Who listens to whom.

        Args:
            owner: component with the owner's name.
            selected: component with the id of the run that is looked at.
            private: queue rules of a listener that no program may call.
        """
        seen = self.pictures
        hidden = private | {"show_progress": "hidden"}
        self.files.upload(
            self.take_files,
            [owner, self.base, self.files],
            [self.files, *seen],
            show_progress_on=self.report,
            **private,
        )
        self.take.click(self.take_folder, [owner, self.base, self.place], seen, show_progress_on=self.report, **private)
        self.place.submit(
            self.take_folder, [owner, self.base, self.place], seen, show_progress_on=self.report, **private
        )
        self.add_words.click(self.add_trigger, [owner, self.base, self.trigger], seen, **hidden)
        self.describe.click(self.write_captions, [owner, self.base], seen, show_progress_on=self.table, **private)
        # Each says something else, and must not be lost where the one before takes a while.
        self.table.input(self.change, [owner, self.base], seen, trigger_mode="multiple", **hidden)
        self.clear.click(self.remove_all, [owner, self.base], seen, **hidden)
        choice = [self.preset, self.base]
        for control in choice:
            control.input(self.choose, [*choice, self.title], self.chosen, **hidden)
        self.base.input(self.shown, [owner, self.base], seen, **hidden)
        counted = [self.preset, *self.words, self.used]
        for control in (*self.words, self.used):
            control.change(self.count, counted, [self.shares, self.told], trigger_mode="always_last", **hidden)
        self.form.change(self.price, [*choice, self.form], [self.cost, self.known], **hidden)
        given = [owner, *choice, self.form, self.title, self.trigger, *self.words]
        self.begun = self.start.click(self.begin, given, [selected, self.told], show_progress_on=self.told, **private)

    # Pictures

    @contextmanager
    def changing(self, owner: str) -> Iterator[Dataset]:
        """The pictures of the owner's next run, to be changed."""
        with self.runs.drafting(owner, VISITOR.get()) as draft:
            yield Dataset(draft.data, self.mode.limits)

    def take_files(self, owner: str, model: str, paths: list[str] | None) -> tuple[Any, ...]:
        files = [Path(path) for path in paths or []]
        return None, *self._changed(owner, model, lambda dataset: dataset.add(files))

    def take_folder(self, owner: str, model: str, place: str) -> tuple[Any, ...]:
        if self.mode.private:  # the page has no such field, but programs could send one
            return self.shown(owner, model, [Problem(place, "folders of this machine can't be named here")])
        return self._changed(owner, model, lambda dataset: dataset.add_folder(folder_named(place)))

    def add_trigger(self, owner: str, model: str, words: str) -> tuple[Any, ...]:
        return self._changed(owner, model, lambda dataset: dataset.add_words(words.strip()))

    def write_captions(self, owner: str, model: str) -> tuple[Any, ...]:
        def describe(dataset: Dataset) -> None:
            if self.mode.private:
                raise ConfigError("Captions are not written here; type them, or name your files after what they show.")
            missing = [row.file for row in self.check(dataset, model).rows if row.used and row.from_name]
            texts = Captioner().describe(map(dataset.open, missing))
            dataset.set_captions(dict(zip(missing, texts, strict=True)))

        return self._changed(owner, model, describe)

    def remove_all(self, owner: str, model: str) -> tuple[Any, ...]:
        return self._changed(owner, model, lambda dataset: dataset.remove(list(dataset.captions())))

    def change(self, owner: str, model: str, event: gr.EventData) -> tuple[Any, ...]:
        """A caption that was typed, or a picture that was taken out."""
        sent = sent_along(event)
        captions, gone = sent.get("captions"), sent.get("remove")

        def change(dataset: Dataset) -> None:
            if isinstance(captions, dict) and captions:
                dataset.set_captions({str(file): str(text) for file, text in captions.items()})
            if isinstance(gone, list) and gone:
                dataset.remove([str(file) for file in gone])

        return self._changed(owner, model, change)

    def _changed(self, owner: str, model: str, change: Callable[[Dataset], list[Problem] | None]) -> tuple[Any, ...]:
        """Change the pictures, and show them as they are now."""
        try:
            with self.changing(owner) as dataset:
                problems, any_there = change(dataset) or [], bool(dataset.captions())
        except (ConfigError, JobError, OSError, RequestError) as error:
            raise gr.Error(plain(reason(error)), print_exception=False) from None
        if any_there and self.starts is as_process and not is_held(self.runs.root / DEVICE_LOCK):
            STANDBY.call()
        return self.shown(owner, model, problems)

    def check(self, dataset: Dataset, model: str) -> Report:
        """The pictures as a run on this model would take them."""
        return dataset.check(self.engine.models.get(model, self.engine.models[self.engine.first]).resolution)

    def shown(self, owner: str, model: str, problems: list[Problem] = ()) -> tuple[Any, ...]:
        """What the page says of the pictures, and the table of them."""
        draft = self.runs.find_draft(owner)
        report = self.check(Dataset(draft.data, self.mode.limits), model) if draft else NOTHING
        pictures = [
            {
                "file": row.file,
                "size": f"{row.width} x {row.height}" if row.width else "",
                "caption": " | ".join(row.captions),
                "from_name": row.from_name,
                "used": row.used,
                "notes": [note for note in row.notes if not row.from_name or "file name" not in note],
                "thumbnail": data_uri(row.thumbnail) if row.thumbnail else None,
            }
            for row in report.rows[:SHOWN]
        ]
        said = [html.escape(sentence) for sentence in report.sentences()] if report.rows else [WAITING]
        if 0 < (used := sum(row.used for row in report.rows)) < FEW:
            said.append(f"<b>{used} {'is' if used == 1 else 'are'} few:</b> {TOO_FEW}")
        lines = "".join(f"<p>{sentence}</p>" for sentence in said)
        lines += "".join(f'<p class="problem">{html.escape(str(problem))}</p>' for problem in problems)
        more = max(0, len(report.rows) - SHOWN)
        return (
            f'<div class="report">{lines}</div>',
            gr.Column(visible=bool(report.rows)),
            gr.HTML(pictures=pictures, more=more),
            tuple(row.captions for row in report.rows if row.used),
        )

    def again(self, owner: str, selected: str) -> tuple[Any, str, Any, Any]:
        """Another run with the pictures of this one, under its name and with its trigger."""
        try:
            job = self.runs.get(selected, owner)
            place = pictures_of(job.config)
            if not place:
                raise JobError("This run was not trained on pictures.")
            with self.changing(owner) as dataset:
                problems = dataset.add_folder(place)
        except (ConfigError, JobError, OSError, RequestError) as error:
            return gr.skip(), problem_html(reason(error)), gr.skip(), gr.skip()
        told = "".join(problem_html(str(problem)) for problem in problems)
        return "", told, job.title, str(job.config.get("trigger", ""))

    # What to train

    def config(self, preset: str, model: str, **given: Any) -> ModelRunConfig:
        """The settings of a preset here.

        Raises:
            ConfigError: there is no such preset or model here.
        """
        if preset not in self.mode.presets or model not in self.models:
            raise ConfigError("choose one of the presets and one of the models of the page")
        config = settings(PRESETS[preset], model, self.engine.models[model], **given)
        return replace(config, steps=min(config.steps, self.mode.steps), minutes=self.mode.minutes or config.minutes)

    def read(self, preset: str, model: str, form: Any, **given: Any) -> ModelRunConfig:
        """The settings that the page asks for.

        Raises:
            ConfigError: some are impossible, or not allowed here.
        """
        config = self.config(preset, model, **given)
        if form and not self.mode.advanced:
            raise ConfigError("settings can't be changed here")
        config = read_form(config, form or {}, self.hidden(preset))
        if config.steps > self.mode.steps:
            raise ConfigError(f"steps must be at most {self.mode.steps} here")
        if self.mode.minutes and not 0 < config.minutes <= self.mode.minutes:
            raise ConfigError(f"minutes must be at most {self.mode.minutes:g} here, and not 0")
        for name, most in self.mode.ceilings.items():
            if getattr(config, name, 0) > most:
                raise ConfigError(f"{name} must be at most {most} here")
        return config

    def hidden(self, preset: str) -> tuple[str, ...]:
        """The settings that the form does not show."""
        return (*PRESETS[preset].hidden, *self.mode.hidden)

    def fields(self, preset: str, model: str) -> list[dict[str, Any]]:
        """What the form shows."""
        return fields_of(self.config(preset, model), self.hidden(preset))

    def choose(self, preset: str, model: str, title: str) -> tuple[Any, ...]:
        """Another preset: its form, what it takes, its name if none was given, and the words that it may ask for."""
        form, words = gr.HTML(value={}, fields=self.fields(preset, model)), self.config(preset, model).words
        price = self.price(preset, model, {})
        name = PRESETS[preset].name if title in NAMES - {PRESETS[preset].name} else gr.skip()  # it may be typed now
        return form, about_html(preset), *price, name, gr.Column(visible=bool(words)), *(words or ("", ""))

    def count(self, preset: str, first: str, second: str, used: Sequence[Sequence[str]]) -> tuple[str, str]:
        """How many pictures each word tells apart; what was in the way of a start is told no more."""
        if preset not in self.mode.presets or not PRESETS[preset].asks_for_domains:
            return "", ""
        words = (str(first).strip(), str(second).strip())
        return shares_html(words, Counter(domain_of(captions, words) for captions in used)), ""

    def price(self, preset: str, model: str, form: Any) -> tuple[str, str]:
        """What the run will take, as far as it is known by now, and a word that changes when more is."""
        try:
            config = self.read(preset, model, form)
        except ConfigError as error:
            return problem_html(str(error)), str(error)
        task = PRESETS[preset].task
        if self.mode.minutes:
            estimate = Estimate(reason=f"It ends after {duration(60 * self.mode.minutes)} on the GPU.")
        elif form and self.mode.private:  # measuring takes the machine, for whatever somebody thinks up
            estimate = Estimate(reason="What changed settings take is told once the run has begun.")
        else:
            estimate = self.estimates.get(task, config)
        return cost_html(config, estimate), f"{preset} {model} {estimate} {config.steps}"

    def begin(
        self,
        owner: str,
        preset: str,
        model: str,
        form: Any,
        title: str,
        trigger: str,
        first: str = "",
        second: str = "",
    ) -> tuple[str, str]:
        """Start the run; returns its id. Two words tell its pictures apart, where the preset asks for them."""
        try:
            title = check_text("The name", title, TITLE_LIMIT).strip()
            trigger = check_text("The trigger", trigger, PROMPT_LIMIT).strip()
            given: dict[str, Any] = {"title": title, "trigger": trigger}
            if preset in self.mode.presets and PRESETS[preset].asks_for_domains:
                words = [check_text("The word of a look", word, WORD_LIMIT).strip() for word in (first, second)]
                if not all(words):
                    raise ConfigError("name a word for each of the two looks")
                given["domains"] = tuple(words)
            config = self.read(preset, model, form, **given)
            title = title or PRESETS[preset].name
            with self.beginning:
                draft = self.runs.find_draft(owner)
                dataset = Dataset(draft.data, self.mode.limits) if draft else None
                used = [row for row in self.check(dataset, model).rows if row.used] if dataset else []
                if not used:
                    raise ConfigError("There are no pictures yet; drop some at the top of the page")
                refuse_empty_domains(used, config.words, trigger)
                self._refuse_too_many(owner)
                if PRESETS[preset].task == "teacher" and not config.preview_prompts:
                    captions = [caption for row in used for caption in row.captions]
                    config = replace(
                        config, preview_prompts=previewed(captions, trigger, self.engine.models[model].words)
                    )
                if trigger:
                    dataset.add_words(trigger)
                job = self.runs.begin(
                    draft, PRESETS[preset].task, preset, title, asdict(config), config.takes, self.starts
                )
        except (ConfigError, JobError, OSError, RequestError) as error:
            return gr.skip(), problem_html(reason(error))
        return job.id, ""

    def _refuse_too_many(self, owner: str) -> None:
        jobs: list[Job] = self.runs.all(owner)
        if len(jobs) > self.mode.runs:  # the draft is one of them
            raise ConfigError(f"You have {len(jobs) - 1} runs, which is the most here; discard one first")
        if sum(job.bytes() for job in jobs) > self.mode.bytes:
            raise ConfigError(f"Your runs take more than {self.mode.bytes / 1e9:g} GB; discard one first")


def previewed(captions: Sequence[str], trigger: str, words: Words) -> tuple[str, ...]:
    """Prompts of the preview pictures: captions that are trained, and then as many that are not.

    What is trained looks well however little was learned of anything else.

    Args:
        captions: that are trained.
        trigger: words that call what is learned; "" for none.
        words: of the model; where it names nothing there is nothing else to ask for.
    """
    seen = set(words_in(" ".join(captions))) - COMMON
    others = (*words.examples, *words.names[:: max(1, len(words.names) // PROBES)])
    unseen = [name for name in others if not seen.intersection(words_in(name))][:PREVIEW_ROW]
    if len(unseen) < PREVIEW_ROW:
        return ()
    spread = [captions[index * len(captions) // PREVIEW_ROW] for index in range(PREVIEW_ROW)]
    return tuple(
        prompt if trigger.lower() in prompt.lower() else f"{prompt}, {trigger}" for prompt in (*spread, *unseen)
    )


def folder_named(place: str) -> Path:
    """The folder that somebody typed.

    Raises:
        ConfigError: it is none that can be.
    """
    if not place.strip():
        raise ConfigError("name a folder of this machine")
    try:
        return Path(place.strip()).expanduser()
    except RuntimeError:
        raise ConfigError(f"there is no home folder {place.strip()!r:.80}") from None


def refuse_empty_domains(rows: list[Row], domains: tuple[str, ...], trigger: str) -> None:
    """Raise ConfigError where a domain has no pictures, once the trigger is in all captions."""
    found = {domain_of([*row.captions, trigger], domains) for row in rows}
    for word in domains:
        if word not in found:
            raise ConfigError(
                f"No picture's captions hold {word!r:.40} and not the other word; name words that the captions hold, "
                "or add them to the captions"
            )


def shares_html(words: tuple[str, ...], found: Mapping[str | None, int]) -> str:
    told = [f"“{html.escape(word)}”: {found[word]:,}" for word in words if word]
    if left := found[None]:
        told.append(f"neither or both, which are left out: {left:,}")
    return f'<p class="quiet">Pictures with {" · ".join(told)}</p>' if any(found.values()) else ""


def about_html(preset: str) -> str:
    return f'<p class="quiet">{html.escape(PRESETS[preset].about)}</p>'


def cost_html(config: ModelRunConfig, estimate: Estimate | None) -> str:
    """Steps, time and memory."""
    if estimate is None:
        takes = "how long that takes here is being measured, as soon as no run trains …"
    elif estimate.reason:
        takes = html.escape(estimate.reason)
    else:
        time = duration(estimate.seconds(config.steps))
        takes = f"about <b>{time}</b> on this machine · <b>{estimate.memory / 1e9:.1f} GB</b> of memory"
    return f'<p class="cost"><b>{config.steps:,} steps, {config.batch} pictures a step</b> · {takes}</p>'
