// Loss terms, each as a line of its own on a scale of its own: value {terms: {name: [[step, value], ...]}, steps}.
const WIDTH = 300, HEIGHT = 72, SVG = 'http://www.w3.org/2000/svg';
const place = element.querySelector('.curves');
const shown = value => Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);

function card(name, points, steps) {
    const figure = document.createElement('figure'), caption = document.createElement('figcaption');
    const label = document.createElement('b'), number = document.createElement('span');
    label.textContent = name.replaceAll('_', ' ');
    number.textContent = shown(points.at(-1)[1]);
    caption.append(label, number);
    const values = points.map(point => point[1]), low = Math.min(...values), high = Math.max(...values);
    const x = step => WIDTH * step / steps, y = value => HEIGHT - 4 - (HEIGHT - 8) * (high > low ? (value - low) / (high - low) : .5);
    const drawing = document.createElementNS(SVG, 'svg'), line = document.createElementNS(SVG, 'polyline'), dot = document.createElementNS(SVG, 'circle');
    drawing.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
    drawing.setAttribute('preserveAspectRatio', 'none');
    drawing.setAttribute('role', 'img');
    drawing.setAttribute('aria-label', `${name}: from ${shown(values[0])} to ${shown(values.at(-1))}`);
    line.setAttribute('points', points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(' '));
    dot.setAttribute('r', 3);
    const mark = ([step, value]) => { dot.setAttribute('cx', x(step)); dot.setAttribute('cy', y(value)); };
    mark(points.at(-1));
    drawing.append(line, dot);
    drawing.addEventListener('pointermove', event => {
        const box = drawing.getBoundingClientRect(), step = steps * (event.clientX - box.left) / box.width;
        const near = points.reduce((best, point) => Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best);
        mark(near);
        number.textContent = `${shown(near[1])} at step ${near[0]}`;
    });
    drawing.addEventListener('pointerleave', () => { mark(points.at(-1)); number.textContent = shown(points.at(-1)[1]); });
    const axes = document.createElement('div');
    axes.className = 'axes';
    for (const text of [`${shown(low)} to ${shown(high)}`, `step 0 to ${steps}`]) {
        axes.append(Object.assign(document.createElement('span'), {textContent: text}));
    }
    figure.append(caption, drawing, axes);
    return figure;
}
function draw() {
    if (place.matches(':hover')) return;  // who reads a value is not disturbed
    const terms = Object.entries(props.value?.terms ?? {}).filter(([, points]) => points.length > 1);
    place.replaceChildren(...terms.map(([name, points]) => card(name, points, props.value.steps)));
}
watch('value', draw);
draw();
