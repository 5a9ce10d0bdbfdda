// A form of settings: `fields` say what there is, value {name: value} holds those that differ from the preset.
const find = selector => element.querySelector(selector);
const list = find('.config'), search = find('input[type=search]'), all = find('.config-head button');
let rows = new Map(), drawn = null, draft = null;  // what is typed and not yet done
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const values = () => props.value || {};

function make(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
}
function plain(number) {  // 1e-7 as 0.0000001
    const [, sign, digits, rest = '', power] = /^(-?)(\d)(?:\.(\d+))?e-(\d+)$/.exec(number) ?? [];
    return digits && power < 13 ? `${sign}0.${'0'.repeat(power - 1)}${digits}${rest}` : String(number);
}
function shown(value) {
    if (typeof value === 'boolean') return value ? 'on' : 'off';
    if (typeof value === 'number') return plain(value);
    return (Array.isArray(value) ? value.join(', ') : value) || 'none';
}
// Spaces of other kinds come with what is pasted, and can't be seen.
const tidy = text => text.replace(/\s/g, ' ').trim();
function read({field, control}) {
    switch (field.kind) {
        case 'switch': return control.checked;
        case 'choice': return control.value;
        case 'text': return tidy(control.value);
        case 'lines': return control.value.split('\n').map(tidy).filter(Boolean);
        default: return control.value === '' ? field.preset : Number(control.value);  // emptied: as it was
    }
}
function write({field, control}, value) {
    if (field.kind === 'switch') control.checked = value;
    else control.value = Array.isArray(value) ? value.join('\n') : shown(value) === 'none' ? '' : shown(value);
}
function controlOf(field) {
    switch (field.kind) {
        case 'switch': return make('input', {type: 'checkbox'});
        case 'choice': return make('select', {}, ...field.choices.map(word => make('option', {value: word}, word)));
        case 'text': return make('input', {type: 'text', placeholder: 'none', autocomplete: 'off', spellcheck: false});
        case 'lines': return make('textarea', {rows: 3, placeholder: 'one a line', spellcheck: false});
        default: return make('input', {type: 'number', step: field.kind === 'whole' ? 1 : 'any', autocomplete: 'off'});
    }
}
function rowOf(field) {
    const control = controlOf(field), id = `${element.id}-${field.name}`;
    control.id = id;
    control.setAttribute('aria-describedby', `${id}-help`);
    const label = make('label', {htmlFor: id}, field.label);
    const reset = make('button', {type: 'button', className: 'reset', title: `Back to ${shown(field.preset)}`}, 'Reset');
    reset.setAttribute('aria-label', `Reset ${field.label}`);
    const help = make('small', {id: `${id}-help`});
    field.help.split('`').forEach((part, index) => help.append(index % 2 ? make('code', {}, part) : part));
    if (!same(field.preset, field.default)) help.append(make('span', {}, ` (by default ${shown(field.default)})`));
    const wrong = make('small', {className: 'wrong', hidden: true}, 'It must be a whole number.');
    const head = make('div', {className: 'head'}, label, reset);
    if (field.kind === 'switch') head.prepend(control);
    const row = make('div', {className: `setting ${field.kind}`}, head, ...field.kind === 'switch' ? [] : [control], wrong, help);
    row.dataset.name = field.name;
    const entry = {field, row, control, reset, wrong};
    write(entry, field.preset);
    return entry;
}
function build() {
    const focused = list.contains(document.activeElement) && document.activeElement.closest('.setting').dataset.name;
    const fields = props.fields ?? [];
    drawn = fields; draft = null;
    rows = new Map(fields.map(field => [field.name, rowOf(field)]));
    list.replaceChildren(...[...new Set(fields.map(field => field.group))].map((group, index) => {
        const heading = make('h3', {id: `${element.id}--${index}`}, group), grid = make('div', {className: 'grid'});
        grid.append(...fields.filter(field => field.group === group).map(field => rows.get(field.name).row));
        const section = make('section', {}, heading, grid);
        section.setAttribute('role', 'group');
        section.setAttribute('aria-labelledby', heading.id);
        return section;
    }));
    filter();
    if (focused) rows.get(focused)?.control.focus({preventScroll: true});
}
function draw() {
    if (!same(props.fields, drawn)) build();
    let count = 0;
    for (const entry of rows.values()) {
        const {field, row, control, reset, wrong} = entry;
        const value = values()[field.name] ?? field.preset, changed = !same(value, field.preset);
        if (control !== draft && !same(read(entry), value)) write(entry, value);
        const broken = field.kind === 'whole' && !Number.isSafeInteger(value);
        row.classList.toggle('changed', changed);
        reset.hidden = !changed; wrong.hidden = !broken;
        control.setAttribute('aria-invalid', broken);
        count += changed;
    }
    find('.config-head p').textContent = count ? `${count} changed` : '';
    all.hidden = !count;
}
function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const {field, row} of rows.values()) {
        const text = `${field.name} ${field.label} ${field.help} ${field.group}`.toLowerCase();
        row.hidden = !words.every(word => text.includes(word));
    }
    for (const section of list.children) section.hidden = !section.querySelector('.setting:not([hidden])');
    find('.config-nothing').hidden = !rows.size || !!list.querySelector('section:not([hidden])');
}
function set(changed) {
    // The page itself tells of a change of the value, whoever made it; input is the user's.
    if (!same(changed, values())) { props.value = changed; trigger('input'); }
    draw();
}
function put({field}, value) {
    const changed = {...values()};
    if (same(value, field.preset)) delete changed[field.name]; else changed[field.name] = value;
    set(changed);
}
const entryOf = target => rows.get(target.closest('.setting')?.dataset.name);
list.addEventListener('input', event => { draft = event.target; });
list.addEventListener('change', event => {
    if (event.target !== draft) return;  // what is taken off the page while somebody types says so too
    const entry = entryOf(event.target);
    draft = null;
    put(entry, read(entry));
    write(entry, values()[entry.field.name] ?? entry.field.preset);
});
list.addEventListener('focusout', () => { draft = null; });
list.addEventListener('click', event => {
    const entry = event.target.closest('.reset') && entryOf(event.target);
    if (!entry) return;
    put(entry, entry.field.preset);
    entry.control.focus();
});
all.addEventListener('click', () => { set({}); search.focus(); });
// Arrows go in steps of 1, which no rate survives; a wheel that scrolls the page changes nothing on its way.
list.addEventListener('keydown', event => {
    if (['ArrowUp', 'ArrowDown'].includes(event.key) && event.target.step === 'any') event.preventDefault();
});
list.addEventListener('wheel', event => {
    if (event.target.type === 'number' && event.target === document.activeElement) event.target.blur();
}, {passive: true});
search.addEventListener('input', filter);
watch(['fields', 'value'], draw);
draw();
