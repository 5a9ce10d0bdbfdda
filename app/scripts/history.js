// What was made, kept in this browser and nowhere else. The page sends each result as `value` ({entry, seeds, shows}: the
// settings of its first picture, all seeds, the element that shows them); pictures are kept once they have stood still
// for a moment, so that dragging a slider leaves one. Tabs of a browser share what is kept, one record a picture.
const LIMIT = 200, STILL = 1200, FILE_LIMIT = 20e6, OLD = 'yoso-studio-history', SEVERAL = 7;
const find = selector => element.querySelector(selector);
const dialog = find('dialog'), search = find('input[type=search]'), zoom = find('.full-foot input'), pictures = find('.full-pictures');
const others = 'BroadcastChannel' in window ? new BroadcastChannel('yoso-pictures') : null;
let kept = [], chosen = null, pinned = null, waiting = null, favourites = false;
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

async function load() {
    const stored = await window.yosoStore.all('pictures');
    if (stored) kept = stored.sort((a, b) => b.time - a.time);
    chosen = kept.find(one => one.id === chosen?.id) ?? null;
    draw();
}
async function put(...records) {
    await window.yosoStore.put('pictures', ...records);
    others?.postMessage('changed');
}
async function remove(...records) {
    const ids = new Set(records.map(one => one.id));
    kept = kept.filter(one => !ids.has(one.id));
    if (ids.has(chosen?.id)) chosen = null;
    if (ids.has(pinned?.id)) pinned = null;
    draw();
    await window.yosoStore.remove('pictures', ...ids);
    others?.postMessage('changed');
    window.yosoSay(records.length > 1 ? `${records.length} pictures forgotten.` : 'Picture removed.', {
        Undo: async () => { kept = [...kept, ...records].sort((a, b) => b.time - a.time); draw(); await put(...records); },
    });
}
others?.addEventListener('message', load);

// Keeping ------------------------------------------------------------------------------------------------------------
async function keep({entry, seeds, shows}) {
    clearTimeout(waiting);
    waiting = null;
    const images = new Map();
    for (const image of document.querySelectorAll(`${shows} img[data-seed]`)) {
        const seed = Number(image.dataset.seed);
        if (!images.has(seed)) images.set(seed, {picture: image.src, said: image.alt});
    }
    const now = Date.now(), made = [];
    seeds.forEach((seed, index) => {
        if (!images.has(seed)) return;  // replaced meanwhile
        const settings = {...entry, seed}, known = kept.find(one => same(one.entry, settings));
        const record = known ?? {id: window.yosoUnique(), entry: settings, favourite: false};
        made.push({...record, ...images.get(seed), time: now - index});
    });
    if (!made.length) return;
    find('.heard').textContent = `${made.length > 1 ? `${made.length} pictures` : 'Picture'} drawn: ${title(made[0])}`;
    const ids = new Set(made.map(one => one.id));
    kept = [...made, ...kept.filter(one => !ids.has(one.id))];
    const old = kept.slice(LIMIT).filter(one => !one.favourite);
    kept = kept.filter(one => !old.includes(one));
    chosen = kept.find(one => one.id === chosen?.id) ?? null;
    draw();
    await put(...made);
    if (old.length) await window.yosoStore.remove('pictures', ...old.map(one => one.id));
}
watch('value', () => {
    const value = props.value;
    if (value?.offer) offer(value.offer);
    if (!value?.entry) return;
    clearTimeout(waiting);
    waiting = setTimeout(() => keep(value), STILL);
});

// The strip ----------------------------------------------------------------------------------------------------------
const title = ({said, entry}) => said ?? `${entry.prompt || 'no prompt'}, seed ${entry.seed}`;
function seen() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    return kept.filter(one => (!favourites || one.favourite) && words.every(word => title(one).toLowerCase().includes(word)));
}
function draw() {
    const strip = find('.strip'), focused = strip.contains(document.activeElement), shown = seen();
    strip.replaceChildren(...shown.map((one, index) => {
        const button = document.createElement('button');
        button.type = 'button';
        button.dataset.id = one.id;
        button.setAttribute('role', 'option');
        button.setAttribute('aria-selected', one === chosen);
        button.tabIndex = (chosen && shown.includes(chosen) ? one === chosen : index === 0) ? 0 : -1;
        button.title = title(one) + (one.favourite ? ', favourite' : '');
        const image = document.createElement('img');
        image.src = one.picture; image.alt = button.title; image.draggable = false; image.loading = 'lazy';
        button.append(image);
        if (one.favourite) button.classList.add('favourite');
        return button;
    }));
    if (focused) strip.querySelector('[tabindex="0"]')?.focus();
    find('.empty').hidden = kept.length > 0;
    for (const name of ['favourites', 'save-all', 'clear']) find(`[data-do=${name}]`).hidden = !kept.length;
    find('.all').hidden = false;
    search.hidden = kept.length < SEVERAL;
    find('[data-do=favourites]').setAttribute('aria-pressed', favourites);
    find('.one').hidden = !shown.includes(chosen);
    if (chosen !== null) find('.one .about').textContent = title(chosen);
    if (dialog.open) drawFull();
}
function choose(one) { if (one !== chosen) find('.link').hidden = true; chosen = one; draw(); }
function step(by) {
    const shown = seen(), place = shown.indexOf(chosen);
    const next = shown[Math.min(shown.length - 1, Math.max(0, place + by))];
    if (next) choose(next);
}

// Full view ----------------------------------------------------------------------------------------------------------
function figure(one) {
    const made = document.createElement('figure'), image = document.createElement('img');
    image.src = one.picture; image.alt = title(one); image.draggable = false;
    made.append(image);
    made.style.setProperty('--zoom', zoom.value);
    return made;
}
// What of a picture is in the middle, in parts of its width and height.
function middle(one) {
    if (!one) return [.5, .5];
    return [(one.scrollLeft + one.clientWidth / 2) / one.scrollWidth, (one.scrollTop + one.clientHeight / 2) / one.scrollHeight];
}
function drawFull() {
    if (!chosen) return dialog.close();
    const pair = pinned && pinned !== chosen ? [pinned, chosen] : [chosen];
    const [x, y] = middle(pictures.firstChild);
    pictures.replaceChildren(...pair.map(figure));
    for (const each of pictures.children) each.scrollTo(x * each.scrollWidth - each.clientWidth / 2, y * each.scrollHeight - each.clientHeight / 2);
    find('.full .about').textContent = pair.map(title).join('  |  ');
    find('[data-do=favourite]').setAttribute('aria-pressed', chosen.favourite);
    find('[data-do=beside]').setAttribute('aria-pressed', pinned !== null);
}
function full(one) {
    if (!one) return;
    zoom.value = 1; pinned = null;
    choose(one);
    if (!dialog.open) dialog.showModal();
    drawFull();
}
// A picture on a stage is looked at: it is kept at once, as is one of Compare, which brings its settings.
window.yosoLook = async (entry, picture) => {
    const record = kept.find(one => same(one.entry, entry)) ?? {id: window.yosoUnique(), entry, picture, favourite: false, time: Date.now()};
    if (!kept.includes(record)) { kept = [record, ...kept]; put(record); }
    full(record);
};
window.yosoFull = async image => {
    if (waiting !== null) await keep(props.value);
    full(kept.find(one => one.picture === image.src));
};
dialog.addEventListener('keydown', event => {
    if (event.target.matches('input')) return;
    const deed = {ArrowLeft: () => step(-1), ArrowRight: () => step(1), f: () => deeds.favourite(), '+': () => enlarge(.5), '-': () => enlarge(-.5)}[event.key];
    if (deed) { event.preventDefault(); deed(); }
});
// What is under `at` stays there, as the middle does without one; of two pictures the same part is seen.
function enlarge(by, at = null) { zoom.value = Number(zoom.value) + by; zoomed(at); }
function zoomed(at = null) {
    const shown = at?.target.closest('figure') ?? pictures.firstChild, box = shown.getBoundingClientRect();
    const [x, y] = [(at?.clientX ?? box.left + box.width / 2) - box.left, (at?.clientY ?? box.top + box.height / 2) - box.top];
    const grown = zoom.value / shown.style.getPropertyValue('--zoom');
    for (const each of pictures.children) each.style.setProperty('--zoom', zoom.value);
    shown.scrollTo((shown.scrollLeft + x) * grown - x, (shown.scrollTop + y) * grown - y);
}
zoom.addEventListener('input', () => zoomed());
pictures.addEventListener('scroll', event => {
    for (const each of pictures.children) if (each !== event.target) each.scrollTo(event.target.scrollLeft, event.target.scrollTop);
}, true);
pictures.addEventListener('wheel', event => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    enlarge(event.deltaY < 0 ? .5 : -.5, event);
}, {passive: false});
pictures.addEventListener('dblclick', event => enlarge(zoom.value > 1 ? -8 : 2, event));
pictures.addEventListener('pointermove', event => {  // fingers drag by themselves
    if (event.pointerType === 'mouse' && event.buttons === 1) event.target.closest('figure')?.scrollBy(-event.movementX, -event.movementY);
});
dialog.addEventListener('click', event => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener('close', () => find('.strip [tabindex="0"]')?.focus({preventScroll: true}));

// Deeds --------------------------------------------------------------------------------------------------------------
// Put what a picture shows onto the canvas of a tab, which may never have been open.
window.yosoToCanvas = (source, tab = 'edit') => {
    const take = window.yosoCanvases?.[tab]?.take;
    if (source && take) take(source);
    else if (source) (window.yosoWaiting ??= {})[tab] = source;
};
function bring(source, tab) { window.yosoToCanvas(source, tab); trigger('edit', {tab}); dialog.close(); }
const deeds = {
    restore: () => { trigger('select', {request: chosen.entry}); dialog.close(); },
    full: () => full(chosen),
    edit: () => bring(chosen.picture, 'edit'),
    translate: () => bring(chosen.picture, 'translate'),
    link: () => trigger('copy', {request: chosen.entry}),
    save: () => trigger('download', {requests: [chosen.entry]}),
    remove: () => { const gone = chosen; if (dialog.open) step(seen().at(-1) === gone ? -1 : 1); if (chosen === gone) chosen = null; remove(gone); },
    favourite: () => { chosen.favourite = !chosen.favourite; draw(); put(chosen); },
    favourites: () => { favourites = !favourites; draw(); },
    beside: () => { pinned = pinned ? null : chosen; drawFull(); },
    previous: () => step(-1),
    next: () => step(1),
    close: () => dialog.close(),
    'save-all': () => trigger('download', {requests: seen().map(each => each.entry).slice(0, props.most)}),
    clear: () => remove(...kept),
    afresh: () => window.yosoDesk.afresh(),
};
element.addEventListener('click', event => {
    const button = event.target.closest('button');
    if (button?.dataset.id) {
        const one = kept.find(each => each.id === button.dataset.id);
        choose(chosen === one ? null : one);
    } else if (button?.dataset.do) deeds[button.dataset.do]();
});
const strip = find('.strip');
strip.addEventListener('dblclick', event => {
    const button = event.target.closest('button');
    if (button) full(kept.find(each => each.id === button.dataset.id));
});
strip.addEventListener('keydown', event => {  // one stop of the Tab key; arrows go on from there
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (by) { event.preventDefault(); step(chosen ? by : 0); }
    if (event.key === 'Enter' && chosen) { event.preventDefault(); full(chosen); }
    if (event.key === 'Delete' && chosen) deeds.remove();
});
search.addEventListener('input', draw);

// The link is shown; that it is on the clipboard is said where it is.
window.yosoLink = async ({link, without}) => {
    const row = find('.link'), field = row.querySelector('input'), said = row.querySelector('p');
    field.value = `${location.origin}${location.pathname}#s=${link}`;
    row.hidden = false;
    const lacks = without.length ? ` It does not hold ${without.join(' and ')}.` : '';
    let copied = false;
    try { await navigator.clipboard.writeText(field.value); copied = true; } catch { /* plain http, or not allowed */ }
    said.textContent = (copied ? 'The link is on the clipboard.' : 'Copy this link.') + lacks;
    field.focus(); field.select();
};

// A picture dropped anywhere on the page brings its settings back, but where something else takes it; one without
// settings is still a picture.
let dropped = null;
function offer(sentence) {
    window.yosoSay(sentence, {'Edit it': () => bring(dropped, 'edit'), 'Translate it': () => bring(dropped, 'translate')}, 30);
}
document.addEventListener('dragover', event => event.preventDefault());
document.addEventListener('drop', event => {
    const taken = event.defaultPrevented || event.target.closest?.('.takes-files');
    event.preventDefault();
    if (taken) return;
    const file = event.dataTransfer.files[0];
    if (!file) return;
    if (!file.type.startsWith('image/')) return window.yosoSay('That is no picture; LoRAs and data have places of their own on the page.');
    if (file.size > FILE_LIMIT) return window.yosoSay('That file is larger than 20 MB; choose a smaller one.');
    const reader = new FileReader();
    reader.onload = () => { dropped = reader.result; trigger('upload', {file: reader.result}); };
    reader.readAsDataURL(file);
});

async function begin() {
    try {  // as the studio kept them once
        const old = JSON.parse(localStorage.getItem(OLD)) ?? [], now = Date.now();
        await put(...old.map((one, index) => ({id: window.yosoUnique(), time: now - index, favourite: false, ...one})));
        localStorage.removeItem(OLD);
    } catch { /* there are none */ }
    await load();
}
draw();
begin();
