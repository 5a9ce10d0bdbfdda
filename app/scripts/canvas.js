// A canvas: a picture to paint on, and a mask over it. Gradio runs this once for each, with `element` (the markup of
// canvas.html), `props` (value: {picture, mask, file}; tab, side, brush), `trigger` and `watch`.
const SIDE = 512, SNAPSHOTS = 24, FILE_LIMIT = 20e6;
const find = selector => element.querySelector(selector);
const picture = find('.picture'), mask = find('.mask'), video = find('video');
const paint = picture.getContext('2d', {willReadFrequently: true}), veil = mask.getContext('2d', {willReadFrequently: true});
let tool = 'paint', colour = '#1c1917', size = props.brush, masked = false, undone = [], done = [], pending = 0, last = null;

const say = sentence => { find('.canvas-note').textContent = sentence; };

// What the server sees -----------------------------------------------------------------------------------------------
function reduced(layer, matte) {
    const small = document.createElement('canvas'), context = small.getContext('2d');
    const side = props.side ?? SIDE;  // what the model draws needs no more
    small.width = small.height = side;
    context.imageSmoothingQuality = 'high';
    context.drawImage(layer, 0, 0, side, side);
    if (matte) {  // whatever is painted is white, the rest black
        context.globalCompositeOperation = 'source-in';
        context.fillStyle = '#fff';
        context.fillRect(0, 0, side, side);
        context.globalCompositeOperation = 'destination-over';
        context.fillStyle = '#000';
        context.fillRect(0, 0, side, side);
    }
    return small.toDataURL('image/png');
}
function send() {
    pending = 0;
    props.value = {picture: reduced(picture, false), mask: masked ? reduced(mask, true) : null};
    trigger('input');
}
function changed() { if (!pending) pending = setTimeout(send, 40); }

// Undo ---------------------------------------------------------------------------------------------------------------
const snapshot = () => [paint.getImageData(0, 0, SIDE, SIDE), veil.getImageData(0, 0, SIDE, SIDE), masked];
function remember() { done.push(snapshot()); undone = []; if (done.length > SNAPSHOTS) done.shift(); buttons(); }
function travel(from, to) {
    if (!from.length) return;
    to.push(snapshot());
    const [colours, veiled, was] = from.pop();
    paint.putImageData(colours, 0, 0); veil.putImageData(veiled, 0, 0); masked = was;
    buttons(); changed();
}
function buttons() {
    find('[data-do=undo]').disabled = !done.length;
    find('[data-do=redo]').disabled = !undone.length;
    find('[data-do=unmask]').disabled = !masked;
}

// Strokes ------------------------------------------------------------------------------------------------------------
function place(event) {
    const box = picture.getBoundingClientRect();
    return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height];
}
function stroke(from, to) {
    const context = tool === 'paint' ? paint : veil;
    context.globalCompositeOperation = tool === 'erase' ? 'destination-out' : 'source-over';
    context.strokeStyle = tool === 'paint' ? colour : '#ff2d95';
    context.lineWidth = size; context.lineCap = context.lineJoin = 'round';
    context.beginPath(); context.moveTo(...from); context.lineTo(to[0] + .01, to[1]); context.stroke();
    if (tool === 'mask') masked = true;
}
mask.addEventListener('pointerdown', event => {
    if (event.button) return;
    event.preventDefault();
    mask.setPointerCapture(event.pointerId);
    remember();
    last = place(event); stroke(last, last); changed();
});
mask.addEventListener('pointermove', event => {
    if (!last) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) { const next = place(each); stroke(last, next); last = next; }
    changed();
});
for (const kind of ['pointerup', 'pointercancel']) mask.addEventListener(kind, () => {
    if (!last) return;
    last = null;
    if (tool === 'erase') masked = veil.getImageData(0, 0, SIDE, SIDE).data.some((value, index) => index % 4 === 3 && value);
    buttons(); changed();
});

// Pictures from elsewhere --------------------------------------------------------------------------------------------
function blank() {
    paint.globalCompositeOperation = 'source-over';
    paint.fillStyle = '#fff'; paint.fillRect(0, 0, SIDE, SIDE);
    veil.clearRect(0, 0, SIDE, SIDE); masked = false;
}
async function show(source, keepMask) {
    const image = new Image();
    image.src = source;
    await image.decode();
    if (!keepMask) blank();
    paint.globalCompositeOperation = 'source-over';
    paint.imageSmoothingQuality = 'high';
    paint.drawImage(image, 0, 0, SIDE, SIDE);
    buttons();
}
function upload(file) {
    if (!file?.type.startsWith('image/')) return say('That is no picture; choose a PNG, JPEG, WebP or GIF.');
    if (file.size > FILE_LIMIT) return say('That file is larger than 20 MB; choose a smaller one.');
    const reader = new FileReader();
    reader.onload = () => { say('Opening …'); props.value = {file: reader.result}; trigger('upload'); };
    reader.readAsDataURL(file);
}
async function adopt() {  // what the server sent
    const value = props.value;
    if (!value?.picture) {
        if (value?.note) { say(value.note); send(); }  // the canvas is what it was
        return;
    }
    remember();
    await show(value.picture);
    if (value.mask) {
        const image = new Image();
        image.src = value.mask;
        await image.decode();
        veil.drawImage(image, 0, 0, SIDE, SIDE);  // white where masked, black elsewhere
        const pixels = veil.getImageData(0, 0, SIDE, SIDE);
        for (let index = 0; index < pixels.data.length; index += 4) {
            const alpha = pixels.data[index];
            pixels.data.set([255, 45, 149, alpha], index);
            masked ||= alpha > 0;
        }
        veil.putImageData(pixels, 0, 0);
    }
    buttons();
    say(value.note ?? '');
    if (value.draw) send();
}
watch('value', adopt);
// For buttons elsewhere on the page, see history.js; they may have been pressed before there was a canvas.
async function take(source) { remember(); await show(source); say(''); send(); }
(window.yosoCanvases ??= {})[props.tab] = take;

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
    video.srcObject = null; video.hidden = true; find('[data-do=camera]').textContent = 'Camera';
}
new IntersectionObserver(entries => { if (!entries[0].isIntersecting) stopCamera(); }).observe(video.parentElement);
async function camera() {
    if (video.srcObject) {
        const frame = document.createElement('canvas'), side = Math.min(video.videoWidth, video.videoHeight);
        frame.width = frame.height = SIDE;
        frame.getContext('2d').drawImage(
            video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side, 0, 0, SIDE, SIDE);
        stopCamera();
        remember(); await show(frame.toDataURL()); send();
        return;
    }
    try {
        video.srcObject = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'user'}});
        video.hidden = false; await video.play(); find('[data-do=camera]').textContent = 'Take it';
    } catch { say('No camera can be used here; allow it in the browser, or open a file.'); }
}

// Tools --------------------------------------------------------------------------------------------------------------
function choose(next) {
    tool = next;
    for (const button of element.querySelectorAll('[data-tool]')) button.setAttribute('aria-pressed', button.dataset.tool === tool);
}
function dye(next) {
    colour = next; choose('paint');
    for (const button of element.querySelectorAll('[data-colour]')) button.setAttribute('aria-pressed', button.dataset.colour === colour);
}
const deeds = {
    undo: () => travel(done, undone),
    redo: () => travel(undone, done),
    clear: () => { remember(); blank(); buttons(); send(); },
    unmask: () => { remember(); veil.clearRect(0, 0, SIDE, SIDE); masked = false; buttons(); send(); },
    open: () => find('input[type=file]').click(),
    camera,
};
element.addEventListener('click', event => {
    const button = event.target.closest('button');
    if (button?.dataset.tool) choose(button.dataset.tool);
    else if (button?.dataset.colour) dye(button.dataset.colour);
    else if (button?.dataset.do) deeds[button.dataset.do]();
});
find('input[type=color]').addEventListener('input', event => dye(event.target.value));
find('input[type=range]').addEventListener('input', event => { size = Number(event.target.value); });
document.addEventListener('keydown', event => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== 'z' || !element.offsetParent) return;
    if (event.target.matches('input:not([type=range]), textarea')) return;
    event.preventDefault();
    deeds[event.shiftKey ? 'redo' : 'undo']();
});
blank(); buttons();
find('.brush input').value = size;
const waiting = window.yosoWaiting?.[props.tab];
if (waiting) { delete window.yosoWaiting[props.tab]; take(waiting); } else adopt();
