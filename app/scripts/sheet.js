// Pictures beside one another: a click looks at one, see history.js. Each holds what it does not share with the first.
element.addEventListener('click', event => {
    const cell = event.target.closest('[data-change]');
    if (!cell) return;
    const shared = JSON.parse(cell.closest('[data-entry]').dataset.entry);
    window.yosoLook({...shared, ...JSON.parse(cell.dataset.change)}, cell.querySelector('img').src);
});
