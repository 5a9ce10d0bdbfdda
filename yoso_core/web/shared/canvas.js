// A canvas: a picture, what is painted on it, and a mask over both, in the shape of whatever picture is brought. Gradio
// runs this once for each, with `element` (the markup of canvas.html), `props` (value: {picture, mask, file}), `trigger` and `watch`;
// TAB, SIDE, which the server sees, and WIDTH, of the brush, are constants. What stands on it is kept by desk.js. A script
// of its own: what libraries of shapes keep as objects would have to be pixels again at every stroke, see docs/edit.md.
const AREA = 512, LONGEST = 4, SNAPSHOTS = 24, FILE_LIMIT = 20e6, ZOOMS = [1, 2, 4], CLOSEST = 8, MASK = '#ff2d95', KEEP_AFTER = 400;
const find = selector => element.querySelector(selector);
const video = find('video'), view = find('.canvas-view'), stack = find('.canvas-stack'), brush = find('.brush input');
const layers = Object.fromEntries(['picture', 'ink', 'mask'].map(name => [name, find(`.${name}`)]));
const on = Object.fromEntries(Object.entries(layers).map(([name, layer]) => [name, layer.getContext('2d', {willReadFrequently: true})]));
const LAYER = {paint: 'ink', erase: 'ink', mask: 'mask', unmask: 'mask'};
let width = AREA, height = AREA, tool = 'paint', colour = '#1c1917', other = '#ffffff', last = null, zoom = 1, space = false, pan = null;
let empty = {picture: true, ink: true, mask: true}, hidden = {}, done = [], undone = [], pending = 0, keeping = 0, original = null;
const fingers = new Map();

const say = sentence => { find('.canvas-note').textContent = sentence; };

// What the server sees -----------------------------------------------------------------------------------------------
function reduced(names, matte) {
    const small = document.createElement('canvas'), context = small.getContext('2d');
    const scale = (window.yosoSide ?? SIDE) / AREA;  // what the model draws needs no more
    small.width = Math.round(width * scale); small.height = Math.round(height * scale);
    context.imageSmoothingQuality = 'high';
    if (!matte) { context.fillStyle = '#fff'; context.fillRect(0, 0, small.width, small.height); }
    for (const name of names) if (!hidden[name]) context.drawImage(layers[name], 0, 0, small.width, small.height);
    if (matte) {  // whatever is painted is white, the rest black
        context.globalCompositeOperation = 'source-in';
        context.fillStyle = '#fff';
        context.fillRect(0, 0, small.width, small.height);
        context.globalCompositeOperation = 'destination-over';
        context.fillStyle = '#000';
        context.fillRect(0, 0, small.width, small.height);
    }
    return small.toDataURL('image/png');
}
function send() {
    clearTimeout(pending); clearTimeout(keeping);
    pending = 0; keeping = setTimeout(keep, KEEP_AFTER);
    props.value = {picture: reduced(['picture', 'ink'], false), mask: empty.mask ? null : reduced(['mask'], true)};
    trigger('input');
}
function changed() { if (!pending) pending = setTimeout(send, 40); }
function keep() {
    const drawn = Object.fromEntries(Object.entries(layers).map(([name, layer]) => [name, empty[name] ? null : layer.toDataURL()]));
    window.yosoDesk.keepCanvas(TAB, {width, height, hidden, ...drawn});
}

// Undo ---------------------------------------------------------------------------------------------------------------
function snapshot(names) {
    const pixels = names.map(name => [name, on[name].getImageData(0, 0, width, height)]);
    return {width, height, pixels, empty: {...empty}};
}
const ALL = Object.keys(layers);
function remember(names = ALL) { done.push(snapshot(names)); undone = []; if (done.length > SNAPSHOTS) done.shift(); buttons(); }
function travel(from, to) {
    if (!from.length) return;
    const before = from.pop();
    to.push(snapshot(before.pixels.map(([name]) => name)));
    shape(before.width, before.height);
    for (const [name, pixels] of before.pixels) on[name].putImageData(pixels, 0, 0);
    empty = before.empty;
    buttons(); changed();
}
function buttons() {
    find('[data-do=undo]').disabled = !done.length;
    find('[data-do=redo]').disabled = !undone.length;
    find('[data-do=nomask]').disabled = empty.mask;
    find('.invite').hidden = !(empty.picture && empty.ink && empty.mask) || !video.hidden;
    find('.layers').hidden = empty.picture || empty.ink;
    for (const button of find('.layers').children) button.setAttribute('aria-pressed', !hidden[button.dataset.layer]);
    for (const name of ['picture', 'ink']) layers[name].classList.toggle('away', Boolean(hidden[name]));
}

// Layers -------------------------------------------------------------------------------------------------------------
// The same number of pixels in the shape of these; what stood on the layers is gone where it differs.
function shape(w, h) {
    const ratio = Math.sqrt(Math.min(LONGEST, Math.max(1 / LONGEST, w / h)));
    w = Math.round(AREA * ratio); h = Math.round(AREA / ratio);
    if (w === width && h === height) return;
    width = w; height = h;
    for (const layer of Object.values(layers)) { layer.width = width; layer.height = height; }
    view.style.aspectRatio = stack.style.aspectRatio = `${width} / ${height}`;
}
function blank(name) {
    on[name].globalCompositeOperation = 'source-over';
    on[name].clearRect(0, 0, width, height);
    if (name === 'picture') { on.picture.fillStyle = '#fff'; on.picture.fillRect(0, 0, width, height); }
    empty[name] = true; hidden[name] = false;
}
async function loaded(source) {
    const image = new Image();
    image.src = source;
    await image.decode();
    return image;
}
function place(name, image) {
    on[name].globalCompositeOperation = 'source-over';
    on[name].imageSmoothingQuality = 'high';
    on[name].drawImage(image, 0, 0, width, height);
    empty[name] = false;
}
async function show(source) {
    const image = await loaded(source);
    shape(image.naturalWidth, image.naturalHeight);
    ALL.forEach(blank);
    place('picture', image);
    buttons();
}

// Strokes ------------------------------------------------------------------------------------------------------------
function placeOf(event) {
    const box = stack.getBoundingClientRect();
    return [(event.clientX - box.left) * width / box.width, (event.clientY - box.top) * height / box.height];
}
function stroke(from, to, pressure = 1) {
    const context = on[LAYER[tool]], size = Number(brush.value) * pressure, rubs = tool === 'erase' || tool === 'unmask';
    const dye = LAYER[tool] === 'mask' ? MASK : colour;
    context.globalCompositeOperation = rubs ? 'destination-out' : 'source-over';
    if (find('.soft input').checked && LAYER[tool] === 'ink') {
        const [dx, dy] = [to[0] - from[0], to[1] - from[1]], count = Math.max(1, Math.ceil(Math.hypot(dx, dy) / (size / 6)));
        for (let index = 1; index <= count; index++) {
            const [x, y] = [from[0] + dx * index / count, from[1] + dy * index / count];
            const dab = context.createRadialGradient(x, y, 0, x, y, size / 2);
            dab.addColorStop(0, dye + '55'); dab.addColorStop(1, dye + '00');
            context.fillStyle = dab;
            context.fillRect(x - size / 2, y - size / 2, size, size);
        }
    } else {
        context.strokeStyle = dye;
        context.lineWidth = size; context.lineCap = context.lineJoin = 'round';
        context.beginPath(); context.moveTo(...from); context.lineTo(to[0] + .01, to[1]); context.stroke();
    }
    if (!rubs) empty[LAYER[tool]] = false;
}
const isEmpty = name => !on[name].getImageData(0, 0, width, height).data.some((value, index) => index % 4 === 3 && value);
const pressed = event => event.pointerType === 'pen' && event.pressure ? .25 + .75 * event.pressure : 1;
function pickColour(event) {
    const [x, y] = placeOf(event).map(Math.floor), one = document.createElement('canvas').getContext('2d');
    one.fillStyle = '#fff'; one.fillRect(0, 0, 1, 1);
    for (const name of ['picture', 'ink']) if (!hidden[name]) one.drawImage(layers[name], -x, -y);
    dye('#' + [...one.getImageData(0, 0, 1, 1).data.slice(0, 3)].map(value => value.toString(16).padStart(2, '0')).join(''));
}
layers.mask.addEventListener('pointerdown', event => {
    if (event.button > 1) return;
    event.preventDefault();
    fingers.set(event.pointerId, event);
    try { layers.mask.setPointerCapture(event.pointerId); } catch { /* lifted already */ }
    if (fingers.size > 1) { if (last) { last = null; travel(done, []); } return; }  // the second finger moves the canvas
    if (event.button || space) { pan = event; return; }
    if (tool === 'pick') return pickColour(event);
    remember([LAYER[tool]]);
    if (hidden[LAYER[tool]]) { hidden[LAYER[tool]] = false; buttons(); }
    last = placeOf(event); stroke(last, last, pressed(event)); changed();
});
layers.mask.addEventListener('pointermove', event => {
    if (fingers.size > 1 && fingers.has(event.pointerId)) {
        const before = grip();
        fingers.set(event.pointerId, event);
        const after = grip();
        magnify(zoom * after.far / Math.max(1, before.far), after);
        view.scrollBy(before.clientX - after.clientX, before.clientY - after.clientY);
        return;
    }
    if (pan) { view.scrollBy(pan.clientX - event.clientX, pan.clientY - event.clientY); pan = event; }
    if (!last) return;
    const between = event.getCoalescedEvents?.() ?? [];  // a list that may be empty
    for (const each of between.length ? between : [event]) { const next = placeOf(each); stroke(last, next, pressed(each)); last = next; }
    changed();
});
for (const kind of ['pointerup', 'pointercancel']) layers.mask.addEventListener(kind, event => {
    fingers.delete(event.pointerId);
    pan = null;
    if (!last) return;
    last = null;
    if (tool === 'erase' || tool === 'unmask') empty[LAYER[tool]] = isEmpty(LAYER[tool]);
    buttons(); changed();
});

// As wide as the brush, where it would paint. A finger hides it, and knows where it is.
const ring = find('.ring');
function ringed(event) {
    ring.hidden = event.pointerType === 'touch' || !LAYER[tool] || space || Boolean(pan) || !video.hidden;
    const [x, y] = placeOf(event);
    Object.assign(ring.style, {left: `${100 * x / width}%`, top: `${100 * y / height}%`});
    wide();
}
function wide() { ring.style.width = `${100 * brush.value / width}%`; }
for (const kind of ['pointermove', 'pointerdown', 'pointerup']) layers.mask.addEventListener(kind, ringed);
layers.mask.addEventListener('pointerleave', () => { ring.hidden = true; });

// Looking closer -----------------------------------------------------------------------------------------------------
// What is under `at` (of the screen; without one the middle) stays there.
function magnify(next, at = null) {
    const box = view.getBoundingClientRect(), before = zoom;
    const [x, y] = [(at?.clientX ?? box.left + box.width / 2) - box.left, (at?.clientY ?? box.top + box.height / 2) - box.top];
    zoom = Math.min(CLOSEST, Math.max(1, next));
    stack.style.width = `${100 * zoom}%`;
    view.classList.toggle('closer', zoom > 1);
    const grown = zoom / before;
    view.scrollTo((view.scrollLeft + x) * grown - x, (view.scrollTop + y) * grown - y);
    find('[data-do=zoom]').textContent = `Zoom ${Math.round(zoom)}×`;
}
function grip() {  // of two fingers: how far apart, and around what
    const [a, b] = [...fingers.values()];
    return {far: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY), clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2};
}
view.addEventListener('wheel', event => {  // with Ctrl, and what a pad makes of two fingers
    if (!event.ctrlKey) return;
    event.preventDefault();
    magnify(zoom * (event.deltaY < 0 ? 1.25 : .8), event);
}, {passive: false});
function reach(on) { space = on; ring.hidden ||= on; view.classList.toggle('reach', on); }
document.addEventListener('keyup', event => { if (event.key === ' ') reach(false); });

// Pictures from elsewhere --------------------------------------------------------------------------------------------
function upload(file) {
    if (!file?.type.startsWith('image/')) return say('That is no picture; choose a PNG, JPEG, WebP or GIF.');
    if (file.size > FILE_LIMIT) return say('That file is larger than 20 MB; choose a smaller one.');
    const reader = new FileReader();
    reader.onload = () => { original = reader.result; read(); };
    reader.readAsDataURL(file);
}
function read() { say('Opening …'); props.value = {file: original}; trigger('upload'); }
async function adopt() {  // what the server sent
    const value = props.value;
    if (!value?.picture) {
        if (value?.note) { say(value.note); original = null; send(); }  // the canvas is what it was
        return;
    }
    remember();
    await show(value.picture);
    if (value.mask) {
        place('mask', await loaded(value.mask));  // white where masked, black elsewhere
        const pixels = on.mask.getImageData(0, 0, width, height);
        for (let index = 0; index < pixels.data.length; index += 4) pixels.data.set([255, 45, 149, pixels.data[index]], index);
        on.mask.putImageData(pixels, 0, 0);
        empty.mask = isEmpty('mask');
    }
    buttons();
    say(value.note ?? '');
    if (value.draw) send();
}
watch('value', adopt);
// For others on the page, see history.js and easel.py; they may have been pressed before there was a canvas.
async function take(source) { original = null; remember(); await show(source); say(''); send(); }
(window.yosoCanvases ??= {})[TAB] = {take, refit: () => { if (original) read(); }};

find('input[type=file]').addEventListener('change', event => { upload(event.target.files[0]); event.target.value = ''; });
element.addEventListener('dragover', event => { event.preventDefault(); event.stopPropagation(); });
element.addEventListener('drop', event => { event.preventDefault(); event.stopPropagation(); upload(event.dataTransfer.files[0]); });
document.addEventListener('paste', event => {
    const file = [...event.clipboardData.files][0];
    if (file && element.offsetParent) { event.preventDefault(); upload(file); }
});

// Camera -------------------------------------------------------------------------------------------------------------
function stopCamera() {
    video.srcObject?.getTracks().forEach(track => track.stop());
    video.srcObject = null; video.hidden = true; find('[data-do=camera]').textContent = 'Camera'; buttons();
}
new IntersectionObserver(entries => { if (!entries[0].isIntersecting) stopCamera(); }).observe(stack);
async function camera() {
    if (video.srcObject) {
        const frame = document.createElement('canvas');
        frame.width = video.videoWidth; frame.height = video.videoHeight;
        frame.getContext('2d').drawImage(video, 0, 0);
        stopCamera();
        await take(frame.toDataURL());
        return;
    }
    try {
        video.srcObject = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'user'}});
        video.hidden = false; await video.play(); find('[data-do=camera]').textContent = 'Take it'; buttons();
    } catch { say('No camera can be used here; allow it in the browser, or open a file.'); }
}

// Tools --------------------------------------------------------------------------------------------------------------
function choose(next) {
    tool = next;
    for (const button of element.querySelectorAll('[data-tool]')) button.setAttribute('aria-pressed', button.dataset.tool === tool);
}
function dye(next) {
    if (next !== colour) other = colour;
    colour = next;
    if (LAYER[tool] !== 'ink' || tool === 'erase') choose('paint');
    for (const button of element.querySelectorAll('[data-colour]')) button.setAttribute('aria-pressed', button.dataset.colour === colour);
    find('input[type=color]').value = colour;
}
const deeds = {
    undo: () => travel(done, undone),
    redo: () => travel(undone, done),
    clear: () => { original = null; remember(); shape(1, 1); ALL.forEach(blank); buttons(); say(''); send(); },
    nomask: () => { remember(['mask']); blank('mask'); buttons(); send(); },
    open: () => find('input[type=file]').click(),
    zoom: () => magnify(ZOOMS.find(each => each > zoom) ?? 1),
    camera,
};
element.addEventListener('click', event => {
    const button = event.target.closest('button');
    if (button && event.detail) view.focus({preventScroll: true});  // so that keys are the canvas' and not the button's
    if (button?.dataset.tool) choose(button.dataset.tool);
    else if (button?.dataset.colour) dye(button.dataset.colour);
    else if (button?.dataset.layer) { hidden[button.dataset.layer] = !hidden[button.dataset.layer]; buttons(); changed(); }
    else if (button?.dataset.do) deeds[button.dataset.do]();
});
find('input[type=color]').addEventListener('input', event => dye(event.target.value));
const keys = {
    '[': () => { brush.value = Number(brush.value) - 6; wide(); }, ']': () => { brush.value = Number(brush.value) + 6; wide(); },
    x: () => dye(other), b: () => choose('paint'), e: () => choose('erase'), i: () => choose('pick'),
    m: () => choose('mask'), u: () => choose('unmask'),
};
document.addEventListener('keydown', event => {
    if (!element.offsetParent || document.querySelector('dialog[open]')) return;
    if (event.target.matches('input:not([type=range], [type=radio], [type=checkbox]), textarea, select')) return;
    const key = event.key.toLowerCase(), control = event.ctrlKey || event.metaKey;
    if (key === ' ' && view.matches(':hover') && !event.target.closest('button, input')) { event.preventDefault(); return reach(true); }
    if (control && key === 'z') { event.preventDefault(); deeds[event.shiftKey ? 'redo' : 'undo'](); }
    else if (!control && !event.altKey && keys[key] && find(`[data-tool=${{m: 'mask', u: 'unmask'}[key] ?? 'paint'}]`).offsetParent) keys[key]();
});

async function begin() {
    ALL.forEach(blank); buttons();
    brush.value = WIDTH;
    const waiting = window.yosoWaiting?.[TAB];
    if (waiting) { delete window.yosoWaiting[TAB]; return take(waiting); }
    if (props.value?.picture || props.value?.note) return adopt();
    const kept = await window.yosoDesk.canvas(TAB);
    if (!kept || done.length) return;
    shape(kept.width, kept.height);
    ALL.forEach(blank);
    for (const name of ALL) if (kept[name]) place(name, await loaded(kept[name]));
    hidden = kept.hidden ?? {};
    buttons();
    if (ALL.some(name => kept[name])) send();
}
begin();
