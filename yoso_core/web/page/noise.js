// The noise that a seed means, number by number as `torch.Generator().manual_seed(seed)` and `torch.randn` draw it on a
// CPU: a Mersenne twister, and pairs of normal numbers by Box and Muller.
const LENGTH = 624, MIDDLE = 397, BLOCK = 16;

// MT19937 of Matsumoto and Nishimura: 32-bit numbers without end.
function* twister(seed) {
    const state = new Uint32Array(LENGTH);
    state[0] = seed;
    for (let i = 1; i < LENGTH; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ state[i - 1] >>> 30) + i;
    while (true) {
        for (let i = 0; i < LENGTH; i++) {
            const mixed = state[i] & 0x80000000 | state[(i + 1) % LENGTH] & 0x7fffffff;
            state[i] = state[(i + MIDDLE) % LENGTH] ^ mixed >>> 1 ^ (mixed & 1 ? 0x9908b0df : 0);
        }
        for (let number of state) {
            number ^= number >>> 11;
            number ^= number << 7 & 0x9d2c5680;
            number ^= number << 15 & 0xefc60000;
            yield (number ^ number >>> 18) >>> 0;
        }
    }
}

// Standard normal numbers, as many as `size`; a seed is a whole number from 0 to 2^32 - 1.
export function normal(seed, size) {
    const bits = twister(seed), next = () => bits.next().value;
    return size < BLOCK ? few(next, size) : many(next, size);
}

// Blocks of sixteen: the first eight uniform numbers of each are radii, the others angles. A last one that is not whole
// is drawn anew over the end.
function many(next, size) {
    const uniform = () => (next() & 0xffffff) / 2 ** 24;
    const numbers = Float32Array.from({length: size}, uniform);
    const shape = start => {
        for (let i = start; i < start + BLOCK / 2; i++) {
            const radius = Math.sqrt(-2 * Math.log(1 - numbers[i])), angle = 2 * Math.PI * numbers[i + BLOCK / 2];
            numbers[i] = radius * Math.cos(angle);
            numbers[i + BLOCK / 2] = radius * Math.sin(angle);
        }
    };
    for (let start = 0; start + BLOCK <= size; start += BLOCK) shape(start);
    if (size % BLOCK) {
        for (let i = size - BLOCK; i < size; i++) numbers[i] = uniform();
        shape(size - BLOCK);
    }
    return numbers;
}

// One after the other, in double precision; every second is the sine to the cosine before.
function few(next, size) {
    const uniform = () => ((next() & 0x1fffff) * 2 ** 32 + next()) / 2 ** 53;
    const numbers = new Float32Array(size);
    for (let i = 0; i < size; i += 2) {
        const angle = 2 * Math.PI * uniform(), radius = Math.sqrt(-2 * Math.log1p(-uniform()));
        numbers[i] = radius * Math.cos(angle);
        if (i + 1 < size) numbers[i + 1] = radius * Math.sin(angle);
    }
    return numbers;
}
