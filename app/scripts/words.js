// What the model knows, offered while one types, and what it does not: value is the JSON of {names, known, whole, emoji};
// `known` is empty where nothing is told of a model, `whole` are words that no name is guessed from. It listens to the
// prompt above.
const MOST = 7, LEAST = 2, WAIT = 500;
// What is no word of a prompt: LoRA tags, weights of brackets, shares of choices, what parts it.
const SYNTAX = /<\w+:[^<>\n]*>|:\s*[+-]?[\d.]+\s*(?=\))|[\d.]+::|\b(?:BREAK|AND)\b/g;
const list = element.querySelector('.names'), told = element.querySelector('.told');
let field = null, active = -1, waiting = 0, vocabulary = {};
const plural = word => [word, word.replace(/s$/, ''), word.replace(/es$/, '')];

// The words before the cursor that a name may begin with: the longest run first.
function beginnings() {
    const before = field.value.slice(0, field.selectionStart);
    const run = /[\p{L}\p{N}' -]*$/u.exec(before)[0];
    const words = run.split(/(?<=\s)/);
    return words.map((_, index) => words.slice(index).join('')).filter(text => text.trim().length >= LEAST);
}
// Of a word that is known already only names that go on with it are offered, after those that hold it as a word ("top
// hat" before "hatching chick"), and none of one that is whole ("flat", "the").
function matches() {
    const {names = [], known = [], whole = []} = vocabulary;
    if (field.selectionStart !== field.selectionEnd) return [];
    const typed = beginnings().map(text => text.toLowerCase().trimStart());
    if (typed.some(text => names.includes(text.trim())) || whole.includes(typed.at(-1))) return [];
    for (const wanted of typed) {
        const begins = names.filter(name => name.startsWith(wanted) && name !== wanted);
        const isWord = name => ` ${name} `.includes(` ${wanted.trim()} `), done = known.includes(wanted);
        const holds = done && !begins.length ? [] : names.filter(name => name.includes(` ${wanted}`) && !begins.includes(name) && (!done || isWord(name)));
        const found = [...begins, ...holds].sort((a, b) => isWord(b) - isWord(a)).slice(0, MOST);
        if (found.length) return found.map(name => ({name, length: wanted.length}));
    }
    return [];
}
function close() { list.hidden = true; active = -1; list.replaceChildren(); mark(); }
function mark() {
    [...list.children].forEach((each, index) => each.setAttribute('aria-selected', index === active));
    field?.setAttribute('aria-expanded', !list.hidden);
    list.children[active]?.scrollIntoView({block: 'nearest', inline: 'nearest'});
    if (active >= 0) field?.setAttribute('aria-activedescendant', list.children[active].id);
    else field?.removeAttribute('aria-activedescendant');
}
function offer() {
    const found = matches();
    active = -1;
    list.replaceChildren(...found.map(({name, length}, index) => {
        const made = document.createElement('li');
        Object.assign(made, {id: `known-name-${index}`, textContent: name});
        made.setAttribute('role', 'option');
        made.addEventListener('pointerdown', event => { event.preventDefault(); take(name, length); });
        made.take = () => take(name, length);
        return made;
    }));
    list.hidden = !found.length;
    place();
    mark();
}
// Above the prompt, over the page's name: what is below is what one wants next. Below where there is no room.
function place() {
    const prompt = field.getBoundingClientRect(), here = element.getBoundingClientRect(), high = list.offsetHeight + 6;
    const top = prompt.top > high ? prompt.top - high : prompt.bottom + 6;
    list.style.maxWidth = `${document.querySelector('#ask').offsetWidth}px`;
    Object.assign(list.style, {top: `${top - here.top}px`, left: `${prompt.left - here.left}px`});
}
function take(name, length) {
    const end = field.selectionStart;
    field.setRangeText(name, end - length, end, 'end');
    close();
    field.dispatchEvent(new Event('input', {bubbles: true}));
    close();
}
function tell() {
    const {known = [], emoji = {}} = vocabulary, set = new Set(known), text = field.value.replaceAll('\ufe0f', '');
    if (!known.length) { told.textContent = ''; return; }
    const read = Object.keys(emoji).filter(each => text.includes(each)).map(each => `${each} is read as “${emoji[each]}”`);
    const typed = new Set((text.replace(SYNTAX, ' ').toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []));
    // What names are offered for may still become one.
    const begun = list.hidden ? null : /[\p{L}\p{N}]+$/u.exec(field.value.slice(0, field.selectionStart).toLowerCase())?.[0];
    const unknown = [...typed].filter(word => word !== begun && !plural(word).some(each => set.has(each)));
    const lines = read.slice(0, 4);
    if (unknown.length) lines.push(`${unknown.slice(0, 5).map(word => `“${word}”`).join(', ')}: ${unknown.length > 1 ? 'words' : 'a word'} that the model never learned`);
    told.textContent = lines.join(' · ');
}
function listen() {
    const found = document.querySelector('#prompt textarea');
    if (!found || found === field) return;
    field = found;
    for (const [name, value] of Object.entries({role: 'combobox', 'aria-autocomplete': 'list', 'aria-controls': 'known-names', 'aria-expanded': false, autocomplete: 'off'})) field.setAttribute(name, value);
    field.addEventListener('input', event => {
        if (event.inputType) offer();  // what a button sets is no typing
        clearTimeout(waiting);
        waiting = setTimeout(tell, WAIT);
    });
    field.addEventListener('keydown', event => {
        if (list.hidden) return;
        const count = list.children.length;
        if (event.key === 'ArrowDown') active = (active + 1) % count;
        else if (event.key === 'ArrowUp') active = active > 0 ? active - 1 : count - 1;
        else if (event.key === 'Escape') { close(); event.stopPropagation(); return; }
        else if ((event.key === 'Enter' || event.key === 'Tab') && active >= 0) { event.preventDefault(); event.stopImmediatePropagation(); list.children[active].take(); return; }
        else return;
        event.preventDefault();
        mark();
    }, true);
    field.addEventListener('blur', close);
    tell();
}
document.addEventListener('keydown', event => {
    const button = document.querySelector('#generate');
    if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey) || event.target === field || !button?.offsetParent || document.querySelector('dialog[open]')) return;
    event.preventDefault();
    button.click();
});
function read() { vocabulary = JSON.parse(props.value || '{}'); if (field) tell(); }
watch('value', () => { listen(); read(); });
read();
listen();
if (!field) { const timer = setInterval(() => { listen(); if (field) clearInterval(timer); }, 100); }
