// The page: what is typed, drawn and set becomes a request, and what comes of it is shown. Whatever changes, a picture is
// asked for; artist.js sees to it that the last wish wins.
import {Artist} from './artist.js';
import {canvas} from './canvas.js';
import {withText} from './png.js';

const SEEDS = 2 ** 32, BRUSH = 18, PATIENCE = 5000, KEPT = 'yoso-page';
const find = id => document.getElementById(id);
const about = await (await fetch('model.json')).json();
const artist = new Artist(told => tell(`${told} …`));
let style = about.styles[0] ?? '', lines = 'drawn', drawing = null, shown = null;

// Threads take headers that the service worker adds: the page that installs it loads itself once more, before anything
// large is fetched.
async function install() {
    try {
        await navigator.serviceWorker.register('sw.js');
        await Promise.race([navigator.serviceWorker.ready, new Promise((_, reject) => setTimeout(reject, PATIENCE))]);
    } catch { return; }  // there is none here: one thread, and no pictures without a network
    if (self.crossOriginIsolated || sessionStorage.getItem(KEPT)) return;
    sessionStorage.setItem(KEPT, 'reloaded');
    location.reload();
    await new Promise(() => {});
}

function tell(sentence, problem = false) {
    find('told').textContent = sentence;
    find('told').classList.toggle('problem', problem);
}

// What is asked for -----------------------------------------------------------------------------------------------------
// The chosen style is the prompt's last words, unless it names one itself.
function prompt() {
    const typed = find('prompt').value.trim(), words = typed.toLowerCase().match(/[\p{L}\p{N}_]+/gu) ?? [];
    const named = about.styles.some(each => words.includes(each));
    return [typed, named ? '' : style].filter(Boolean).join(', ');
}
function request() {
    const number = name => Number(find(name).value);
    const seed = Math.min(Math.max(Math.round(number('seed')) || 0, 0), SEEDS - 1), drawn = find('drawing').hidden ? null : drawing;
    return {prompt: prompt(), seed, picture: drawn, strength: number('strength'), lines: drawn ? lines : 'none', follow: number('follow')};
}
async function ask() {
    for (const name of ['strength', 'follow']) find(`${name}-said`).textContent = Number(find(name).value).toFixed(2);
    const asked = request();
    try {
        const made = await artist.draw(asked);
        if (made) show(made, asked);
    } catch (error) {
        tell(error.message, true);
    }
}

// What came of it -------------------------------------------------------------------------------------------------------
function show({data, width, height, cut, milliseconds, runtime}, asked) {
    const picture = find('picture');
    if (!shown) navigator.serviceWorker?.controller?.postMessage({keep: [...Object.values(about.networks), 'canvas.html', 'icon-192.png', 'icon-512.png', 'manifest.webmanifest']});
    Object.assign(picture, {width, height, className: ''});
    picture.getContext('2d').putImageData(new ImageData(data, width, height), 0, 0);
    shown = asked;
    find('save').disabled = false;
    const unread = cut ? ` The model did not read the end: “${cut}”.` : '';
    tell(`${width} × ${height}, ${Math.round(milliseconds)} ms, ${runtime}, seed ${asked.seed}.${unread}`);
}
async function save() {
    const picture = find('picture'), {prompt, seed} = shown;
    const settings = `${prompt}\nSteps: 1, Sampler: LCM, CFG scale: 1, Seed: ${seed}, Size: ${picture.width}x${picture.height}, Model: ${about.title}`;
    const blob = await withText(await new Promise(resolve => picture.toBlob(resolve)), settings);
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    link.download = `${prompt.replace(/[^\p{L}\p{N}]+/gu, '-').slice(0, 60) || 'picture'}-${seed}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// The canvas is the studio's, where a server opens pictures; here the browser does, and gives them the model's shape.
async function beginDrawing() {
    const element = find('canvas'), listeners = [], props = {value: null};
    element.innerHTML = await (await fetch('canvas.html')).text();
    window.yosoDesk = {canvas: async () => null, keepCanvas: () => {}};
    const give = value => { props.value = value; listeners.forEach(listener => listener()); };
    const hear = {
        async input() { drawing = await pixels(props.value.picture, about.side); ask(); },
        async upload() {
            try { give({picture: await square(props.value.file), draw: true}); }
            catch { give({note: 'This picture can’t be opened; choose a PNG, JPEG, WebP or GIF.'}); }
        },
    };
    drawing = blank(about.side);
    canvas(element, props, name => hear[name](), (_, listener) => listeners.push(listener), 'page', Math.min(4 * about.side, 512), BRUSH);
}
function surface(side) {
    const made = document.createElement('canvas'), context = Object.assign(made, {width: side, height: side}).getContext('2d', {willReadFrequently: true});
    context.imageSmoothingQuality = 'high';
    context.fillStyle = '#fff';
    context.fillRect(0, 0, side, side);
    return context;
}
function read(context, side) {
    const {data} = context.getImageData(0, 0, side, side);
    return {data, width: side, height: side};
}
const blank = side => read(surface(side), side);
async function opened(source) {
    const image = new Image();
    image.src = source;
    await image.decode();
    return image;
}
async function pixels(source, side) {
    const context = surface(side);
    context.drawImage(await opened(source), 0, 0, side, side);
    return read(context, side);
}
async function square(source) {
    const image = await opened(source), {naturalWidth: width, naturalHeight: height} = image;
    const side = Math.min(width, height), most = Math.min(side, 1024), context = surface(most);
    context.drawImage(image, (width - side) / 2, (height - side) / 2, side, side, 0, 0, most, most);
    return context.canvas.toDataURL();
}

// Controls --------------------------------------------------------------------------------------------------------------
function pill(text, press, group = '') {
    const made = Object.assign(document.createElement('button'), {type: 'button', textContent: text});
    if (group) made.setAttribute('role', 'radio');
    made.addEventListener('click', press);
    return made;
}
function choose(group, chosen) {
    for (const each of group.children) each.setAttribute('aria-checked', each === chosen);
}
for (const [name, title] of [['', 'any'], ...about.styles.map(each => [each, each])]) {
    const made = pill(title, () => { style = name; choose(find('styles'), made); ask(); }, 'styles');
    find('styles').append(made);
    if (name === style) choose(find('styles'), made);
}
for (const example of about.examples) find('examples').append(pill(example, () => { find('prompt').value = example; ask(); }));
for (const button of find('lines').children) button.addEventListener('click', () => { lines = button.dataset.value; choose(find('lines'), button); ask(); });
for (const name of ['prompt', 'strength', 'follow', 'seed']) find(name).addEventListener('input', ask);
find('prompt').addEventListener('keydown', event => { if (event.key === 'Enter' && !event.shiftKey) { event.preventDefault(); roll(); } });
function roll() { find('seed').value = Math.floor(Math.random() * 1e6); ask(); }
find('roll').addEventListener('click', roll);
find('save').addEventListener('click', save);
find('draw').addEventListener('click', async () => {
    const begins = find('drawing').hidden;
    find('drawing').hidden = !begins;
    find('draw').setAttribute('aria-pressed', begins);
    if (begins && !drawing) await beginDrawing();
    ask();
});
find('lines-dial').hidden = !about.networks.control;

const dark = matchMedia('(prefers-color-scheme: dark)');
const paint = () => document.body.classList.toggle('dark', dark.matches);
dark.addEventListener('change', paint);
paint();
find('prompt').value = about.examples[0] ?? '';
tell('Loading …');
await install();
ask();
