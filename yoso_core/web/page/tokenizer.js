// Text to tokens as CLIP's tokenizer makes them: lower case, words, bytes, pairs of bytes.
const WORD_END = '</w>';
const SPACE = /\p{White_Space}+/gu;
const WORDS = /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;
const PIECES = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}+|[^\p{White_Space}\p{L}\p{N}]+/gu;  // of a word that is called as a token is

// A letter for each byte: itself where that is one that can be seen, else one from 256 on.
function byteLetters() {
    const seen = byte => byte >= 33 && byte <= 126 || byte >= 161 && byte <= 172 || byte >= 174;
    let other = 256;
    return Array.from({length: 256}, (_, byte) => String.fromCodePoint(seen(byte) ? byte : other++));
}

export class Tokenizer {
    // vocabulary: tokens to numbers. merges: the text of merges.txt. about: numbers of begin, end and padding, and how
    // many tokens the network reads.
    constructor(vocabulary, merges, about) {
        this.vocabulary = vocabulary;
        this.about = about;
        this.letters = byteLetters();
        this.bytes = new Map(this.letters.map((letter, byte) => [letter, byte]));
        this.tokens = new Map(Object.entries(vocabulary).map(([token, number]) => [number, token]));
        const pairs = merges.split('\n').filter(line => line && !line.startsWith('#version'));
        this.ranks = new Map(pairs.map((pair, rank) => [pair, rank]));
        this.special = new RegExp(`(${about.special.map(token => token.replace(/[|\\{}()[\]^$+*?.]/g, '\\$&')).join('|')})`);
        this.known = new Map();
    }

    // The numbers of a text, and the words that there was no room for.
    read(text) {
        const {begin, end, padding, length} = this.about, room = length - 2;
        const all = this.split(text), kept = all.slice(0, room);
        const numbers = [begin, ...kept, end, ...Array(room - kept.length).fill(padding)];
        return {numbers, cut: this.words(all.slice(room))};
    }

    split(text) {
        return text.split(this.special).flatMap((part, index) => index % 2 ? [this.vocabulary[part]] : this.ordinary(part));
    }

    ordinary(text) {
        // Letter by letter: in whole words JavaScript knows two small letters for the Greek Σ.
        const plain = [...text.normalize('NFC').replace(SPACE, ' ')].map(letter => letter.toLowerCase()).join('');
        const words = [...plain.matchAll(WORDS)].flatMap(([word]) => [...word.matchAll(PIECES)]);
        return words.flatMap(([word]) => this.merged(word));
    }

    // A word's bytes, joined pair by pair: of all pairs in it always the one that was learned first.
    merged(word) {
        if (this.known.has(word)) return this.known.get(word);
        let parts = [...new TextEncoder().encode(word)].map(byte => this.letters[byte]);
        parts[parts.length - 1] += WORD_END;
        while (parts.length > 1) {
            const ranks = parts.slice(1).map((part, index) => this.ranks.get(`${parts[index]} ${part}`) ?? Infinity);
            const best = Math.min(...ranks);
            if (best === Infinity) break;
            const at = ranks.indexOf(best);
            parts.splice(at, 2, parts[at] + parts[at + 1]);
        }
        const numbers = parts.map(part => this.vocabulary[part] ?? this.about.end);
        this.known.set(word, numbers);
        return numbers;
    }

    words(numbers) {
        const text = numbers.map(number => this.tokens.get(number)).join('').replaceAll(WORD_END, ' ');
        const bytes = [...text].flatMap(letter => this.bytes.get(letter) ?? 32);
        return new TextDecoder().decode(Uint8Array.from(bytes)).trim();
    }
}

// A prompt with its emoji as the words that they stand for, as `yoso_core.words` has it. The longest go first: sequences
// begin with characters that mean something alone.
export function spelling(names) {
    const emoji = Object.keys(names).sort((one, other) => [...other].length - [...one].length);
    if (!emoji.length) return text => text;
    const quoted = emoji.map(each => each.replace(/[*#|+?.()[\]{}^$\\]/g, '\\$&'));
    const pattern = new RegExp(` *(${quoted.join('|')}) *`, 'gu');
    const ascii = /^[\x00-\x7f]*$/;
    return text => ascii.test(text) ? text : text.replaceAll('\ufe0f', '').replace(pattern, (_, each) => ` ${names[each]} `).trim();
}
