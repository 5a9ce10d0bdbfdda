// The service worker: everything that was fetched once is there without a network, and threads are allowed, which take
// two headers that plain web servers don't send. files.js says which files there are, with hashes of what they hold;
// an export that changes some of them has the others still.
importScripts('files.js');
const CACHE = 'yoso', HEADERS = {'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp', 'Cross-Origin-Resource-Policy': 'same-origin'};
const root = new URL('./', location).href, key = name => `${root}${name}?${FILES[name]}`;

async function clean() {
    const cache = await caches.open(CACHE), known = new Set(Object.keys(FILES).map(key));
    for (const request of await cache.keys()) if (!known.has(request.url)) await cache.delete(request);
}

async function digest(bytes) {
    const sum = await crypto.subtle.digest('SHA-256', bytes);
    return [...new Uint8Array(sum)].map(byte => byte.toString(16).padStart(2, '0')).join('');
}

async function answer(name) {
    const cache = await caches.open(CACHE), kept = await cache.match(key(name));
    const found = kept ?? await fetch(root + name, {cache: 'no-cache'});
    if (!found.ok) return found;
    const body = await found.arrayBuffer(), headers = new Headers(found.headers);
    for (const [header, value] of Object.entries(HEADERS)) headers.set(header, value);
    const made = new Response(body, {headers});
    // While a new export is being put in place, files of both may come; what is kept is what files.js means. The page
    // itself is kept in any case: some hosts write a line of theirs into it.
    if (!kept && (name === 'index.html' || await digest(body) === FILES[name])) await cache.put(key(name), made.clone());
    return made;
}

oninstall = event => event.waitUntil(answer('index.html'));
onactivate = event => event.waitUntil(clean());
onfetch = event => {
    const {method, url} = event.request, address = new URL(url);
    if (method !== 'GET' || !address.href.startsWith(root)) return;
    const name = decodeURIComponent(address.origin + address.pathname).slice(root.length) || 'index.html';
    if (FILES[name]) event.respondWith(answer(name));
};
// The page asks for what it has not used yet, once the first picture is there.
onmessage = event => event.waitUntil((async () => { for (const name of event.data.keep) await answer(name); })());
