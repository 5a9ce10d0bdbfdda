// A picture's settings as text in its PNG, in the lines that other programs of the field write and read.
const SIGNATURE = 8, HEADER = 25;  // bytes; the text goes behind the header, before the pixels

function crc(bytes) {
    let sum = ~0;
    for (const byte of bytes) {
        sum ^= byte;
        for (let bit = 0; bit < 8; bit++) sum = sum >>> 1 ^ (sum & 1 ? 0xedb88320 : 0);
    }
    return ~sum >>> 0;
}

function chunk(kind, body) {
    const made = new Uint8Array(12 + body.length), view = new DataView(made.buffer);
    view.setUint32(0, body.length);
    made.set(new TextEncoder().encode(kind), 4);
    made.set(body, 8);
    view.setUint32(8 + body.length, crc(made.subarray(4, 8 + body.length)));
    return made;
}

export async function withText(blob, text) {
    const bytes = new Uint8Array(await blob.arrayBuffer()), at = SIGNATURE + HEADER;
    const said = chunk('iTXt', new TextEncoder().encode(`parameters\0\0\0\0\0${text}`));
    return new Blob([bytes.subarray(0, at), said, bytes.subarray(at)], {type: 'image/png'});
}
