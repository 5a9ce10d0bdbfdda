// What a ControlNet follows, as `yoso_core.conditioning` makes it: (3, side, side) in [0, 1], white on black. Pictures
// are {data: RGBA, width, height}.
const INK = 48, FILLED = 20, RIM = 32, LOW = 100, HIGH = 200;

function map(picture, isLine) {
    const count = picture.width * picture.height, one = Float32Array.from({length: count}, (_, place) => isLine(place) ? 1 : 0);
    const all = new Float32Array(3 * count);
    for (let channel = 0; channel < 3; channel++) all.set(one, channel * count);
    return all;
}

// Whether all that is `reach` or less away from each place, in a square, is marked; beyond the border counts as marked.
function eroded(marked, width, height, reach) {
    const along = (given, count, step, line) => {
        const made = new Uint8Array(given.length);
        for (let first = 0; first < given.length / count; first++) {
            const at = index => line(first) + index * step;
            for (let index = 0, run = reach; index < count + reach; index++) {  // the marks in a row up to here
                run = index >= count || given[at(index)] ? run + 1 : 0;
                if (index >= reach) made[at(index - reach)] = run > 2 * reach;
            }
        }
        return made;
    };
    return along(along(marked, width, 1, y => y * width), height, width, x => x);
}
const inverted = marked => marked.map(one => !one);

// A drawing on plain paper: what differs from the commonest colour is ink. Strokes stay as they are; of a filled shape
// its outline is left, and the edges of what is drawn on it.
export function drawn(picture) {
    const {data} = picture, counts = new Map();
    for (let i = 0; i < data.length; i += 4) {
        const colour = (data[i] >> 3) << 10 | (data[i + 1] >> 3) << 5 | data[i + 2] >> 3;
        counts.set(colour, (counts.get(colour) ?? 0) + 1);
    }
    // Of several as common the least, as a sorted list of colours has it first.
    const [common] = [...counts].reduce((best, each) => each[1] > best[1] || (each[1] === best[1] && each[0] < best[0]) ? each : best);
    const paper = [common >> 10, common >> 5 & 31, common & 31].map(level => level * 8 + 4);
    const {width, height} = picture, side = Math.min(width, height);
    const ink = Uint8Array.from({length: width * height}, (_, place) => paper.some((level, channel) => Math.abs(data[4 * place + channel] - level) > INK));
    const reach = Math.floor(side / FILLED), rim = Math.max(2, Math.floor(side / RIM));
    const core = eroded(ink, width, height, reach);
    const filled = inverted(eroded(inverted(core), width, height, reach));
    const inside = eroded(filled, width, height, rim);
    if (!inside.some(Boolean)) return map(picture, place => ink[place]);
    const found = edges(picture);
    return map(picture, place => inside[place] ? found[place] : ink[place]);
}

// Canny's edges, as OpenCV finds them: slopes of the channel where they are steepest, thinned, and followed from where
// they are above HIGH for as long as they are above LOW.
export function edges(picture) {
    const {data, width, height} = picture, count = width * height;
    const across = new Int32Array(count), down = new Int32Array(count), steepness = new Int32Array(count);
    const clip = (value, most) => Math.min(Math.max(value, 0), most - 1);
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
        const place = y * width + x;
        for (let channel = 0; channel < 3; channel++) {
            const at = (dx, dy) => data[4 * (clip(y + dy, height) * width + clip(x + dx, width)) + channel];
            const dx = at(1, -1) + 2 * at(1, 0) + at(1, 1) - at(-1, -1) - 2 * at(-1, 0) - at(-1, 1);
            const dy = at(-1, 1) + 2 * at(0, 1) + at(1, 1) - at(-1, -1) - 2 * at(0, -1) - at(1, -1);
            const steep = Math.abs(dx) + Math.abs(dy);
            if (!channel || steep > steepness[place]) { across[place] = dx; down[place] = dy; steepness[place] = steep; }
        }
    }
    const steep = (x, y) => x < 0 || y < 0 || x >= width || y >= height ? 0 : steepness[y * width + x];
    const isRidge = (x, y) => {  // steeper than before it and at least as steep as behind it, across the edge
        const place = y * width + x, here = steepness[place], [dx, dy] = [across[place], down[place]];
        const [wide, high] = [Math.abs(dx), Math.abs(dy) * 2 ** 15], flat = wide * 13573;  // tan 22.5° in 2^15 parts
        if (high < flat) return here > steep(x - 1, y) && here >= steep(x + 1, y);
        if (high > flat + wide * 2 ** 16) return here > steep(x, y - 1) && here >= steep(x, y + 1);
        const side = (dx ^ dy) < 0 ? -1 : 1;
        return here > steep(x - side, y - 1) && here > steep(x + side, y + 1);
    };
    const found = new Uint8Array(count), waiting = [];
    const ridge = Array.from({length: count}, (_, place) => steepness[place] > LOW && isRidge(place % width, Math.floor(place / width)));
    const take = place => { if (ridge[place] && !found[place]) { found[place] = 1; waiting.push(place); } };
    for (let place = 0; place < count; place++) if (steepness[place] > HIGH) take(place);
    while (waiting.length) {
        const place = waiting.pop(), [x, y] = [place % width, Math.floor(place / width)];
        for (let dy = -1; dy <= 1; dy++) for (let dx = -1; dx <= 1; dx++)
            if (x + dx >= 0 && x + dx < width && y + dy >= 0 && y + dy < height) take((y + dy) * width + x + dx);
    }
    return map(picture, place => found[place]);
}
