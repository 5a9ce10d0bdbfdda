// The pictures of a training set with their captions: `pictures` are what there is. What a user changes is sent with the
// event: {captions: {file: text}, remove: [file]}.
const place = element.querySelector('.picture-table'), more = element.querySelector('.more');

function make(kind, names, text) {
    const made = document.createElement(kind);
    made.className = names;
    if (text !== undefined) made.textContent = text;
    return made;
}
function row(picture) {
    const made = make('div', 'picture' + (picture.used ? '' : ' skipped'));
    made.dataset.file = picture.file;
    const image = make('div', 'thumbnail', picture.thumbnail ? undefined : '?');
    if (picture.thumbnail) image.style.backgroundImage = `url("${picture.thumbnail}")`;
    const words = make('div', 'words'), head = make('div', 'head');
    const gone = make('button', 'remove', '✕');
    gone.type = 'button';
    gone.title = gone.ariaLabel = `Remove ${picture.file}`;
    head.append(make('small', '', picture.size ? `${picture.file} · ${picture.size}` : picture.file), gone);
    words.append(head);
    if (picture.used) {
        const caption = make('input', 'caption');
        caption.value = picture.caption;
        caption.maxLength = 1000;
        caption.ariaLabel = `Caption of ${picture.file}`;
        caption.placeholder = 'What it shows';
        if (picture.from_name) caption.classList.add('from-name');
        words.append(caption);
    }
    if (picture.notes.length) words.append(make('small', 'notes', picture.notes.join('; ')));
    made.append(image, words);
    return made;
}
function draw() {
    if (place.contains(document.activeElement) && document.activeElement.matches('input')) return;  // not under a writing hand
    place.replaceChildren(...(props.pictures ?? []).map(row));
    more.hidden = !props.more;
    more.textContent = props.more ? `And ${props.more} more, which are used in the same way.` : '';
}
function wish(values) { trigger('input', values); }
place.addEventListener('change', event => {
    const file = event.target.closest('.picture')?.dataset.file;
    if (!file) return;
    event.target.classList.remove('from-name');  // what comes back is not drawn while the next one is written
    wish({captions: {[file]: event.target.value}, remove: []});
});
place.addEventListener('keydown', event => {  // Enter goes on to the next caption
    if (event.key !== 'Enter' || !event.target.matches('.caption')) return;
    const all = [...place.querySelectorAll('.caption')];
    event.target.dispatchEvent(new Event('change', {bubbles: true}));
    all[all.indexOf(event.target) + 1]?.focus();
});
place.addEventListener('click', event => {
    const gone = event.target.closest('.remove');
    if (gone) wish({captions: {}, remove: [gone.closest('.picture').dataset.file]});
});
watch(['pictures', 'more'], draw);
draw();
