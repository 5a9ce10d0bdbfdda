// What a person has set and what was made, kept in this browser and nowhere else. It stands in the head of the page, so
// that it is there before everything that uses it: `yosoStore` keeps pictures, `yosoDesk` the controls, `yosoSay` tells.
(() => {
const KEY = 'yoso-desk', BEFORE = 'yoso-desk-before', CANVASES = 12;

// Pictures: a database, because the storage of text holds 5 MB. Without one they last as long as the page.
const base = new Promise(resolve => {
    try {
        const request = indexedDB.open('yoso-studio', 1);
        request.onupgradeneeded = () => {
            for (const name of ['canvases', 'pictures']) request.result.createObjectStore(name, {keyPath: 'id'});
        };
        request.onsuccess = () => resolve(request.result);
        request.onerror = request.onblocked = () => resolve(null);
    } catch { resolve(null); }
});
async function act(name, mode, deed) {
    const open = await base;
    if (!open) return undefined;
    return new Promise(resolve => {
        const transaction = open.transaction(name, mode), request = deed(transaction.objectStore(name));
        transaction.oncomplete = () => resolve(request?.result);
        transaction.onerror = transaction.onabort = () => resolve(undefined);  // such as a full disk
    });
}
window.yosoStore = {
    all: name => act(name, 'readonly', store => store.getAll()),
    get: (name, id) => act(name, 'readonly', store => store.get(id)),
    put: (name, ...values) => act(name, 'readwrite', store => { values.forEach(value => store.put(value)); }),
    remove: (name, ...ids) => act(name, 'readwrite', store => { ids.forEach(id => store.delete(id)); }),
};

// The controls: this tab's own, else what the last tab had.
function read(storage, key = KEY) { try { return JSON.parse(storage.getItem(key)); } catch { return null; } }
function write(storage, value, key = KEY) { try { storage.setItem(key, JSON.stringify(value)); } catch { /* full, or forbidden */ } }
const unique = () => Date.now().toString(36) + Math.random().toString(36).slice(2);
const own = read(sessionStorage), last = own ?? read(localStorage);
const desk = {id: own?.id ?? unique(), from: own ? own.from : last?.id, values: last?.values ?? null};
let open = false, leaving = false;
function save() { write(sessionStorage, desk); write(localStorage, desk); }
window.yosoUnique = unique;
window.yosoDesk = {
    // What the page shall begin with: {saved, link}.
    opening() {
        const link = new URLSearchParams(location.search).get('s') ?? new URLSearchParams(location.hash.slice(1)).get('s');
        return {saved: desk.values, link};
    },
    // From here on what changes is kept, with what all the others say now. A link has done its work: a reload brings what
    // became of it.
    opened(names, values) {
        open = true;
        desk.values = {...desk.values, ...Object.fromEntries(names.map((name, index) => [name, values[index]]))};
        if (this.opening().link) history.replaceState(null, '', location.pathname);
        const before = read(sessionStorage, BEFORE);
        if (before) {
            sessionStorage.removeItem(BEFORE);
            window.yosoSay('Everything is as at first.', {Undo: () => { write(sessionStorage, before); write(localStorage, before); location.reload(); }});
        }
    },
    put(name, value) {
        if (!open || leaving) return;
        desk.values = {...desk.values, [name]: value};
        save();
    },
    afresh() {
        leaving = true;  // what is still on its way belongs to what is left
        write(sessionStorage, desk, BEFORE);
        Object.assign(desk, {id: unique(), from: null, values: null});
        save(); location.reload();
    },
    async canvas(tab) {
        return await window.yosoStore.get('canvases', `${desk.id}/${tab}`) ?? await window.yosoStore.get('canvases', `${desk.from}/${tab}`);
    },
    async keepCanvas(tab, values) {
        if (leaving) return;
        await window.yosoStore.put('canvases', {id: `${desk.id}/${tab}`, time: Date.now(), ...values});
        const all = await window.yosoStore.all('canvases') ?? [];
        const old = all.sort((a, b) => b.time - a.time).slice(CANVASES).map(each => each.id);
        if (old.length) window.yosoStore.remove('canvases', ...old);
    },
};

// A sentence at the foot of the page, with buttons that do something about it: {label: deed}.
let fading = null;
window.yosoSay = (sentence, deeds = {}, seconds = 12) => {
    let bar = document.querySelector('#said');
    if (!bar) {
        bar = Object.assign(document.createElement('div'), {id: 'said'});
        bar.setAttribute('role', 'status');
    }
    (document.querySelector('dialog[open]') ?? document.body).append(bar);
    const words = Object.assign(document.createElement('span'), {textContent: sentence});
    const hide = () => { clearTimeout(fading); bar.replaceChildren(); };
    bar.replaceChildren(words, ...Object.entries({...deeds, '✕': () => {}}).map(([label, deed]) => {
        const button = Object.assign(document.createElement('button'), {type: 'button', textContent: label});
        if (label === '✕') button.ariaLabel = 'Close';
        button.addEventListener('click', () => { hide(); deed(); });
        return button;
    }));
    clearTimeout(fading);
    fading = setTimeout(hide, seconds * 1000);
};
})();
