// The LoRA list: value {id: weight} of those that act; `entries` are what there is. A slider acts while it is dragged. The
// snapshots of a run are one card, with a slider over its steps; the newest is what was handed over last.
const LIMIT = 5, USED = 'yoso-loras-used';
const find = selector => element.querySelector(selector);
const list = find('.loras'), search = find('input[type=search]');
const shown = weight => Number(weight).toFixed(2);
let before = null;
const used = () => { try { return JSON.parse(localStorage.getItem(USED)) ?? []; } catch { return []; } };
function use(entry) {
    const key = entry.run || entry.id;
    try { localStorage.setItem(USED, JSON.stringify([key, ...used().filter(each => each !== key)].slice(0, 50))); } catch { /* full */ }
}

// [{entry, all}]: what a card stands for, and what it can stand for.
function groups() {
    const found = new Map();
    for (const entry of props.entries ?? []) {
        const key = entry.run || entry.id;
        found.set(key, [...found.get(key) ?? [], entry]);
    }
    const order = used(), place = key => order.includes(key) ? order.indexOf(key) : order.length;
    const made = [...found].map(([key, all]) => {
        all.sort((a, b) => (a.step ?? Infinity) - (b.step ?? Infinity));
        return {key, all, entry: all.find(each => props.value?.[each.id] !== undefined) ?? all.at(-1)};
    });
    // The model's own first, what does not fit last, between them what was used last.
    return made.sort((a, b) => (b.entry.own ?? 0) - (a.entry.own ?? 0) || b.entry.fits - a.entry.fits || place(a.key) - place(b.key));
}
function card({entry, all}) {
    const weight = props.value?.[entry.id], on = weight !== undefined;
    const row = document.createElement('div');
    row.className = 'lora' + (on ? ' on' : '') + (entry.fits ? '' : ' foreign');
    row.dataset.id = entry.id;
    row.innerHTML = `
        <button type="button" class="toggle" aria-pressed="${on}">
          <span class="thumbnail"></span>
          <span class="words"><b></b><small></small></span>
        </button>
        <button type="button" class="gone" title="Remove it from the list">✕</button>
        <label class="steps"><span>Step</span><input type="range" min="0" step="1"><output></output></label>
        <label class="weight"><input type="range" min="-1" max="2" step="0.05"><output></output></label>`;
    const name = all.length > 1 ? entry.title.replace(/, step \d+$/, '') : entry.title;
    row.querySelector('b').textContent = name;
    row.querySelector('small').textContent = entry.about;
    row.querySelector('.toggle').title = entry.fits ? 'Use it, or leave it out' : entry.about;
    row.querySelector('.toggle').disabled = !entry.fits || entry.own;
    const gone = row.querySelector('.gone');
    gone.hidden = !entry.opened;
    gone.setAttribute('aria-label', `Remove ${name}`);
    const thumbnail = row.querySelector('.thumbnail');
    if (entry.thumbnail) thumbnail.style.backgroundImage = `url("${entry.thumbnail}")`; else thumbnail.textContent = entry.title[0];
    const steps = row.querySelector('.steps'), step = steps.querySelector('input');
    steps.hidden = !on || all.length < 2;
    step.max = all.length - 1;
    step.value = all.indexOf(entry);
    step.setAttribute('aria-label', `Step of ${name}`);
    steps.querySelector('output').textContent = entry.step ?? 'last';
    const slider = row.querySelector('.weight input');
    slider.value = weight ?? 1;
    slider.setAttribute('aria-label', `Weight of ${name}`);
    row.querySelector('.weight output').textContent = shown(slider.value);
    row.querySelector('.weight').hidden = !on;
    return row;
}
function draw() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = ({entry}) => words.every(word => `${entry.title} ${entry.about} ${entry.family} ${entry.id}`.toLowerCase().includes(word));
    const all = groups(), cards = all.filter(each => props.value?.[each.entry.id] !== undefined || matches(each));
    list.replaceChildren(...cards.map(card));
    find('.nothing').hidden = cards.length > 0;
    search.hidden = all.length < 7;
    const ids = new Set((props.entries ?? []).map(entry => entry.id));
    const added = before && (props.entries ?? []).find(entry => entry.opened && !before.has(entry.id));
    if (added) list.querySelector(`[data-id="${CSS.escape(added.id)}"]`)?.scrollIntoView({block: 'nearest'});
    before = ids;
    window.yosoDesk.put('own', (props.entries ?? []).filter(entry => entry.opened).map(entry => entry.id));
}
function set(values) { props.value = values; trigger('change'); }
list.addEventListener('click', event => {
    const id = event.target.closest('.lora')?.dataset.id;
    if (event.target.closest('.gone')) return trigger('clear', {id});
    if (!event.target.closest('.toggle')) return;
    const values = {...props.value};
    if (values[id] !== undefined) delete values[id];
    else if (Object.keys(values).filter(each => each !== 'one-step').length < LIMIT) values[id] = 1;
    else return;
    use(props.entries.find(entry => entry.id === id));
    set(values); draw();
    list.querySelector(`[data-id="${CSS.escape(id)}"] .toggle`)?.focus();
});
list.addEventListener('input', event => {
    const row = event.target.closest('.lora'), id = row.dataset.id;
    if (event.target.closest('.steps')) {  // another snapshot with the same weight
        const group = groups().find(({all}) => all.some(entry => entry.id === id)), next = group.all[Number(event.target.value)];
        row.dataset.id = next.id;
        row.querySelector('.steps output').textContent = next.step ?? 'last';
        return set(Object.fromEntries(Object.entries(props.value).map(([each, weight]) => [each === id ? next.id : each, weight])));
    }
    row.querySelector('.weight output').textContent = shown(event.target.value);
    set({...props.value, [id]: Number(event.target.value)});
});
list.addEventListener('dblclick', event => {  // back to what it was trained with
    if (!event.target.matches('.weight input')) return;
    event.target.value = 1;
    event.target.dispatchEvent(new Event('input', {bubbles: true}));
});
search.addEventListener('input', draw);
watch(['value', 'entries'], draw);
draw();
