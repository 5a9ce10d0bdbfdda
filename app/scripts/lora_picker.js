// The LoRA list: value {id: weight} of those that act; `entries` are what there is. A slider acts while it is dragged.
const LIMIT = 5;
const find = selector => element.querySelector(selector);
const list = find('.loras'), search = find('input[type=search]');
const shown = weight => Number(weight).toFixed(2);

function card(entry) {
    const weight = props.value?.[entry.id], on = weight !== undefined;
    const row = document.createElement('div');
    row.className = 'lora' + (on ? ' on' : '') + (entry.fits ? '' : ' foreign');
    row.dataset.id = entry.id;
    row.innerHTML = `
        <button type="button" class="toggle" aria-pressed="${on}">
          <span class="thumbnail"></span>
          <span class="words"><b></b><small></small></span>
        </button>
        <label class="weight"><input type="range" min="-1" max="2" step="0.05"><output></output></label>`;
    row.querySelector('b').textContent = entry.title;
    row.querySelector('small').textContent = entry.about;
    row.querySelector('.toggle').title = entry.fits ? 'Use it, or leave it out' : entry.about;
    row.querySelector('.toggle').disabled = !entry.fits || entry.own;
    const thumbnail = row.querySelector('.thumbnail');
    if (entry.thumbnail) thumbnail.style.backgroundImage = `url("${entry.thumbnail}")`; else thumbnail.textContent = entry.title[0];
    const slider = row.querySelector('input');
    slider.value = weight ?? 1;
    slider.setAttribute('aria-label', `Weight of ${entry.title}`);
    row.querySelector('output').textContent = shown(slider.value);
    row.querySelector('.weight').hidden = !on;
    return row;
}
function draw() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = entry => words.every(word => `${entry.title} ${entry.about} ${entry.family} ${entry.id}`.toLowerCase().includes(word));
    const entries = (props.entries ?? []).filter(entry => props.value?.[entry.id] !== undefined || matches(entry));
    list.replaceChildren(...entries.map(card));
    find('.nothing').hidden = entries.length > 0;
    search.hidden = (props.entries ?? []).length < 7;
}
function set(values) { props.value = values; trigger('change'); }
list.addEventListener('click', event => {
    const toggle = event.target.closest('.toggle');
    if (!toggle) return;
    const id = toggle.closest('.lora').dataset.id, values = {...props.value};
    if (values[id] !== undefined) delete values[id];
    else if (Object.keys(values).filter(each => each !== 'one-step').length < LIMIT) values[id] = 1;
    else return;
    set(values); draw();
    list.querySelector(`[data-id="${CSS.escape(id)}"] .toggle`)?.focus();
});
list.addEventListener('input', event => {
    const row = event.target.closest('.lora');
    row.querySelector('output').textContent = shown(event.target.value);
    set({...props.value, [row.dataset.id]: Number(event.target.value)});
});
list.addEventListener('dblclick', event => {  // back to what it was trained with
    if (event.target.type !== 'range') return;
    event.target.value = 1;
    event.target.dispatchEvent(new Event('input', {bubbles: true}));
});
search.addEventListener('input', draw);
watch(['value', 'entries'], draw);
draw();
