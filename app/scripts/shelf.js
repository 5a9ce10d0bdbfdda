// The shelf: value {cards, machine, may, shown, told} is what Python knows; kind, agreements and questions are the page's.
// Cards are updated in place, so that a click, a tick or the focus is not lost while figures move.
const cards = element.querySelector('.cards'), kinds = element.querySelector('.kinds');
const KINDS = {all: 'All', model: 'Models', translator: 'Translators', control: 'For lines', here: 'Here'};
let kind = 'all', asked = '', flashed = 0;

function make(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
}
function press(what, id, more) {
    trigger('select', {do: what, id, ...more});
}
// Out of noise comes something with this model's own colours: the same each time, and another for each model.
function paint(canvas, id) {
    let state = [...id].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) >>> 0, 7);
    const random = () => (state = (state * 1664525 + 1013904223) >>> 0) / 2 ** 32;
    const {width, height} = canvas, brush = canvas.getContext('2d'), hue = random() * 360;
    brush.fillStyle = `hsl(${hue} 45% 82%)`;
    brush.fillRect(0, 0, width, height);
    for (let index = 0; index < 7; index++) {
        const x = width * (.25 + .8 * random()), y = height * random(), radius = height * (.18 + .4 * random());
        const light = brush.createRadialGradient(x - radius / 3, y - radius / 3, radius / 8, x, y, radius);
        const own = hue + (random() < .3 ? 180 : 0) + 50 * (random() - .5);
        light.addColorStop(0, `hsl(${own} 75% ${66 + 18 * random()}%)`);
        light.addColorStop(.92, `hsl(${own + 20} 65% ${46 + 18 * random()}%)`);
        light.addColorStop(1, `hsl(${own + 20} 65% 50% / 0)`);
        brush.fillStyle = light;
        brush.fillRect(0, 0, width, height);
    }
    const pixels = brush.getImageData(0, 0, width, height), data = pixels.data;
    for (let index = 0; index < data.length; index += 4) {
        const share = Math.max(0, 1 - (index / 4 % width) / (.62 * width)), noise = random() < share ** .8 ? 1 : .12 * share;
        for (let each = 0; each < 3; each++) data[index + each] += noise * (255 * random() - data[index + each]);
    }
    brush.putImageData(pixels, 0, 0);
}
function build(card) {
    const made = make('article', 'card');
    made.dataset.id = card.id;
    made.setAttribute('aria-label', card.title);
    if (card.picture) {
        const picture = make('img', 'art');
        picture.src = card.picture, picture.alt = '';
        made.append(picture);
    } else {
        const picture = make('canvas', 'art');
        picture.width = 300, picture.height = 104;
        paint(picture, card.id);
        made.append(picture);
    }
    made.append(make('span', 'badge'), make('h3', '', card.title), make('p', 'about', card.about));
    made.append(make('ul', 'facts'), make('p', 'fit'));
    const way = make('div', 'way');
    way.append(make('div', 'bar'), make('p', 'figures'));
    way.firstChild.append(make('div'));
    const agree = make('label', 'agree'), box = make('input');
    box.type = 'checkbox';
    agree.append(box, ' I have read the ');
    const link = make('a', '', `licence (${card.licence})`);
    link.href = card.page, link.target = '_blank', link.rel = 'noreferrer';
    agree.append(link, ' and agree to it');
    box.addEventListener('change', () => fill(made, find(card.id)));
    made.append(way, make('p', 'why'), agree, make('div', 'do'));
    return made;
}
const find = id => (props.value?.cards ?? []).find(card => card.id === id);
const BADGES = {here: 'Here', bundled: 'Comes along', comes: 'On its way', waits: 'Waits', paused: 'Paused', failed: 'Stopped', absent: ''};

function fill(made, card) {
    made.dataset.state = card.state;
    made.querySelector('.badge').textContent = BADGES[card.state] || card.size || '';
    const facts = made.querySelector('.facts'), lines = card.facts.join('\n');
    if (facts.dataset.lines !== lines) {
        facts.dataset.lines = lines;
        facts.replaceChildren(...card.facts.map(fact => make('li', '', fact)));
        if (card.page) {
            const link = make('a', '', 'its page');
            link.href = card.page, link.target = '_blank', link.rel = 'noreferrer';
            facts.lastChild.append(' · ', link);
        }
    }
    const fit = made.querySelector('.fit');
    fit.textContent = card.fit ? card.fit.words : '';
    fit.dataset.level = card.fit?.level ?? '';
    const moving = ['comes', 'waits', 'paused'].includes(card.state);
    made.querySelector('.way').hidden = !moving;
    made.querySelector('.way .bar div').style.width = `${100 * card.share}%`;
    made.querySelector('.figures').textContent = card.figures;
    made.querySelector('.why').textContent = card.why;
    const agree = made.querySelector('.agree');
    agree.hidden = !(props.value.may && card.state === 'absent' && card.asks);
    const buttons = [];
    const agreed = agree.hidden || agree.querySelector('input').checked;
    if (asked === card.id) {
        buttons.push(['Remove', 'remove', `Frees ${card.frees}`], ['Keep', '', '']);
    } else {
        if (card.usable) buttons.push(['Draw with it', 'use', '']);
        if (props.value.may && card.state === 'absent') buttons.push([`Get it`, 'get', agreed ? '' : 'agree']);
        if (props.value.may && card.state === 'paused') buttons.push(['Go on', 'get', ''], ['Cancel', 'cancel', '']);
        if (props.value.may && card.state === 'failed') buttons.push(['Try again', 'get', ''], ['Cancel', 'cancel', '']);
        if (props.value.may && card.state === 'comes') buttons.push(['Pause', 'pause', ''], ['Cancel', 'cancel', '']);
        if (props.value.may && card.state === 'waits') buttons.push(['Cancel', 'cancel', '']);
        if (props.value.may && card.removable) buttons.push([card.state === 'here' ? 'Remove ...' : 'Off the shelf', card.state === 'here' ? 'ask' : 'remove', '']);
    }
    const row = made.querySelector('.do'), key = JSON.stringify(buttons);
    if (row.dataset.key === key) return;
    const focused = row.contains(document.activeElement);
    row.dataset.key = key;
    row.replaceChildren(...buttons.map(([text, what, note], index) => {
        const button = make('button', index ? '' : 'first', text);
        button.type = 'button', button.dataset.do = what;
        button.disabled = note === 'agree';
        if (note && note !== 'agree') button.append(' ', make('small', '', note));
        return button;
    }));
    if (focused) row.querySelector('button:not(:disabled)')?.focus();
}
function draw() {
    const value = props.value ?? {cards: []};
    element.querySelector('.machine').textContent = value.machine ?? '';
    const said = element.querySelector('.said');
    said.textContent = value.told ?? '', said.classList.toggle('problem', Boolean(value.problem));
    const there = new Map([...cards.children].map(made => [made.dataset.id, made]));
    const shown = value.cards.map(card => {
        const made = there.get(card.id) ?? build(card);
        fill(made, card);
        made.hidden = !(kind === 'all' || kind === card.kind || (kind === 'here' && ['here', 'bundled'].includes(card.state)));
        return made;
    });
    if (shown.length !== cards.children.length || shown.some((made, index) => cards.children[index] !== made)) cards.replaceChildren(...shown);
    const found = Object.keys(KINDS).filter(each => ['all', 'here'].includes(each) || value.cards.some(card => card.kind === each));
    if (kinds.children.length !== found.length) kinds.replaceChildren(...found.map(each => {
        const button = make('button', '', KINDS[each]);
        button.type = 'button', button.dataset.kind = each;
        return button;
    }));
    kinds.hidden = !value.cards.length;  // nothing is known yet
    for (const button of kinds.children) button.setAttribute('aria-pressed', String(button.dataset.kind === kind));
    if (value.shown && value.shown.count > flashed) {
        flashed = value.shown.count, kind = 'all';
        const made = shown.find(each => each.dataset.id === value.shown.id);
        if (made) setTimeout(() => { made.scrollIntoView({block: 'center'}); made.classList.add('flash'); made.querySelector('.do button')?.focus({preventScroll: true}); }, 150);
        setTimeout(() => made?.classList.remove('flash'), 2500);
    }
}
kinds.addEventListener('click', event => {
    kind = event.target.closest('button')?.dataset.kind ?? kind;
    draw();
});
cards.addEventListener('click', event => {
    const button = event.target.closest('.do button'), made = event.target.closest('.card');
    if (!button || button.disabled) return;
    const id = made.dataset.id, what = button.dataset.do;
    asked = what === 'ask' ? id : '';
    if (what === 'use') trigger('edit', {id});
    else if (what && what !== 'ask') {
        press(what, id, {agreed: made.querySelector('.agree input').checked});
        made.querySelectorAll('.do button').forEach(each => { each.disabled = true; });
        made.querySelector('.do').dataset.key = '';
    }
    if (!what || what === 'ask') fill(made, find(id));
});
watch('value', draw);
draw();
