// Where pictures stand. One is looked at by a click, see history.js; the lines that it follows can be put out of the way;
// and beside a canvas on a small screen a copy stays in the corner while the picture itself is out of sight.
element.addEventListener('click', event => {
    const button = event.target.closest('button');
    if (button?.dataset.seed) window.yosoFull(button.querySelector('img'));
    else if (button?.classList.contains('map')) element.classList.toggle('no-map');
});
if (element.closest('.easel')) {
    const narrow = matchMedia('(max-width: 640px)'), inset = document.querySelector('#inset') ?? document.createElement('div');
    let away = false;
    if (!inset.id) {
        Object.assign(inset, {id: 'inset', hidden: true, ariaHidden: 'true'});
        document.querySelector('.gradio-container').append(inset);
        const aside = event => inset.classList.toggle('left', event.clientX > innerWidth / 2);
        for (const name of ['pointerdown', 'pointermove']) document.addEventListener(name, aside);  // away from the hand
    }
    const show = () => {
        if (!element.offsetParent) {  // another tab is open
            if (inset.stage === element) inset.hidden = true;
            return;
        }
        const image = element.querySelector('.pictures img');
        inset.stage = element;
        inset.hidden = !(narrow.matches && away && image);
        if (inset.hidden) return;
        inset.replaceChildren(Object.assign(new Image(), {src: image.src, alt: ''}));
    };
    new IntersectionObserver(entries => { away = entries.at(-1).intersectionRatio < .35; show(); }, {threshold: [0, .35]}).observe(element);
    new MutationObserver(show).observe(element, {childList: true, subtree: true, attributeFilter: ['src']});  // Gradio keeps elements
}
