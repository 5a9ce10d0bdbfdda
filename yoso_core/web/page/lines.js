// What a ControlNet follows, as `yoso_core.conditioning` makes it: (3, side, side) in [0, 1], white on black. Pictures
// are {data: RGBA, width, height}.
const INK = 48, LOW = 100, HIGH = 200;

function map(picture, isLine) {
    const count = picture.width * picture.height, one = Float32Array.from({length: count}, (_, place) => isLine(place) ? 1 : 0);
    const all = new Float32Array(3 * count);
    for (let channel = 0; channel < 3; channel++) all.set(one, channel * count);
    return all;
}

// A drawing on plain paper: what differs from the commonest colour is ink.
export function drawn(picture) {
    const {data} = picture, counts = new Map();
    for (let i = 0; i < data.length; i += 4) {
        const colour = (data[i] >> 3) << 10 | (data[i + 1] >> 3) << 5 | data[i + 2] >> 3;
        counts.set(colour, (counts.get(colour) ?? 0) + 1);
    }
    // Of several as common the least, as a sorted list of colours has it first.
    const [common] = [...counts].reduce((best, each) => each[1] > best[1] || (each[1] === best[1] && each[0] < best[0]) ? each : best);
    const paper = [common >> 10, common >> 5 & 31, common & 31].map(level => level * 8 + 4);
    return map(picture, place => paper.some((level, channel) => Math.abs(data[4 * place + channel] - level) > INK));
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
