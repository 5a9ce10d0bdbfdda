// The runs as a row of buttons: value {id, runs} says which is looked at, "" for a new one, and what there is. All of it is
// the value, because Gradio loses other properties that come before the tab has been opened.
const row = element.querySelector('.runs');
const chosen = () => props.value?.id ?? '';
const LABELS = {queued: 'waits', running: 'training', paused: 'paused', interrupted: 'interrupted', failed: 'failed', finished: 'done', kept: 'kept'};

function button(id, title, state, progress) {
    const made = document.createElement('button');
    made.type = 'button';
    made.dataset.id = id;
    made.className = state || 'new';
    made.setAttribute('aria-pressed', String(id === chosen()));
    const name = document.createElement('b'), about = document.createElement('small');
    name.textContent = title;
    about.textContent = state ? LABELS[state] + (state === 'running' ? ` · ${Math.round(100 * progress)} %` : '') : 'from your pictures';
    made.append(name, about);
    if (state === 'running') made.style.setProperty('--progress', `${100 * progress}%`);
    return made;
}
function draw() {
    const focused = row.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    row.replaceChildren(button('', '+ New run', '', 0), ...(props.value?.runs ?? []).map(run => button(run.id, run.title, run.state, run.progress)));
    if (focused !== null) [...row.children].find(each => each.dataset.id === focused)?.focus();
}
row.addEventListener('click', event => {
    const wished = event.target.closest('button');
    if (!wished || wished.dataset.id === chosen()) return;
    props.value = {...props.value, id: wished.dataset.id};
    draw();
    trigger('select', {id: wished.dataset.id});
});
watch('value', draw);
draw();
