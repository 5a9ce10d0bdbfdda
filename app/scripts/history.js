// What was made, kept in this browser and nowhere else. The page sends the settings of each picture as `value`
// ({entry, shows}); a picture is kept once it has stood still for a moment, so that dragging a slider leaves one.
const KEY = 'yoso-studio-history', LIMIT = 60, BYTES = 4e6, STILL = 1200, FILE_LIMIT = 20e6;
const find = selector => element.querySelector(selector);
let kept = read(), chosen = null, waiting = null;

function read() {
    try {
        const stored = JSON.parse(localStorage.getItem(KEY));
        return Array.isArray(stored) ? stored.filter(one => one?.entry && typeof one.picture === 'string') : [];
    } catch { return []; }
}
function write() {
    const stored = [...kept];
    for (;;) {
        const text = JSON.stringify(stored);
        try {
            if (text.length > BYTES) throw new Error('full');
            localStorage.setItem(KEY, text);
            return;
        } catch { if (!stored.length) return; stored.pop(); }  // the oldest is kept by this page alone
    }
}
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

async function thumbnail(selector) {
    const image = document.querySelector(`${selector} img`);
    if (!image) return null;
    await image.decode().catch(() => {});
    const small = document.createElement('canvas');
    small.width = small.height = 160;
    const context = small.getContext('2d');
    context.imageSmoothingQuality = 'high';
    context.drawImage(image, 0, 0, 160, 160);
    return small.toDataURL('image/webp', .85);
}
async function keep({entry, shows}) {
    const picture = await thumbnail(shows);
    if (!picture) return;
    kept = [{entry, picture}, ...kept.filter(old => !same(old.entry, entry))].slice(0, LIMIT);
    if (!kept.includes(chosen)) chosen = null;
    write(); draw();
}
watch('value', () => {
    clearTimeout(waiting);
    const value = props.value;
    if (value?.entry && !same(kept[0]?.entry, value.entry)) waiting = setTimeout(() => keep(value), STILL);
});

function draw() {
    const strip = find('.strip');
    strip.replaceChildren(...kept.map((one, index) => {
        const {entry, picture} = one;
        const button = document.createElement('button');
        button.type = 'button';
        button.dataset.index = index;
        button.setAttribute('aria-pressed', one === chosen);
        button.title = `${entry.prompt || 'no prompt'}, seed ${entry.seed}`;
        const image = document.createElement('img');
        image.src = picture; image.alt = button.title; image.draggable = false;
        button.append(image);
        return button;
    }));
    find('.empty').hidden = kept.length > 0;
    find('.all').hidden = !kept.length;
    find('.one').hidden = chosen === null;
    if (chosen !== null) find('.about').textContent = chosen.entry.prompt || 'no prompt';
}
// Put what a picture shows onto the canvas of a tab, which may never have been open.
window.yosoToCanvas = (source, tab = 'edit') => {
    const take = window.yosoCanvases?.[tab];
    if (source && take) take(source);
    else if (source) (window.yosoWaiting ??= {})[tab] = source;
};
const deeds = {
    restore: ({entry}) => trigger('select', {request: entry}),
    canvas: ({picture}) => { window.yosoToCanvas(picture); trigger('edit'); },
    link: ({entry}) => trigger('copy', {request: entry}),
    save: ({entry}) => trigger('download', {requests: [entry]}),
    remove: () => { kept = kept.filter(one => one !== chosen); chosen = null; write(); draw(); },
    'save-all': () => trigger('download', {requests: kept.map(each => each.entry)}),
    clear: () => { kept = []; chosen = null; write(); draw(); },
};
element.addEventListener('click', event => {
    const button = event.target.closest('button');
    if (button?.dataset.index) {
        const one = kept[Number(button.dataset.index)];
        chosen = chosen === one ? null : one;
        draw();
    } else if (button?.dataset.do) deeds[button.dataset.do](chosen);
});
find('.strip').addEventListener('dblclick', event => {
    const button = event.target.closest('button');
    if (button) { chosen = kept[Number(button.dataset.index)]; draw(); deeds.restore(chosen); }
});

// A PNG dropped anywhere on the page brings its settings back, but where something else takes it.
document.addEventListener('dragover', event => event.preventDefault());
document.addEventListener('drop', event => {
    const taken = event.defaultPrevented || event.target.closest?.('.takes-files');
    event.preventDefault();
    if (taken) return;
    const file = event.dataTransfer.files[0];
    if (!file || file.size > FILE_LIMIT) return;
    const reader = new FileReader();
    reader.onload = () => trigger('upload', {file: reader.result});
    reader.readAsDataURL(file);
});
const link = new URLSearchParams(location.search).get('s');
if (link) trigger('input', {link});
draw();
