// The runs as a row of buttons: value is the id of the one that is looked at, "" for a new one; `runs` are what there is.
const row = element.querySelector('.runs');
const LABELS = {queued: 'waits', running: 'training', paused: 'paused', interrupted: 'interrupted', failed: 'failed', finished: 'done', kept: 'kept'};

function button(id, title, state, progress) {
    const made = document.createElement('button');
    made.type = 'button';
    made.dataset.id = id;
    made.className = state || 'new';
    made.setAttribute('aria-pressed', String(id === (props.value ?? '')));
    const name = document.createElement('b'), about = document.createElement('small');
    name.textContent = title;
    about.textContent = state ? LABELS[state] + (state === 'running' ? ` · ${Math.round(100 * progress)} %` : '') : 'from your pictures';
    made.append(name, about);
    if (state === 'running') made.style.setProperty('--progress', `${100 * progress}%`);
    return made;
}
function draw() {
    const focused = row.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    row.replaceChildren(button('', '+ New run', '', 0), ...(props.runs ?? []).map(run => button(run.id, run.title, run.state, run.progress)));
    if (focused !== null) [...row.children].find(each => each.dataset.id === focused)?.focus();
}
row.addEventListener('click', event => {
    const chosen = event.target.closest('button');
    if (!chosen || chosen.dataset.id === (props.value ?? '')) return;
    props.value = chosen.dataset.id;
    draw();
    trigger('select', {id: chosen.dataset.id});
});
watch(['value', 'runs'], draw);
draw();
