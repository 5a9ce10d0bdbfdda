// The networks, and one picture of them: what `yoso_core.drawing` does in Python, at one step. Schedule, boundary and
// kind of prediction are in the exported network itself, which returns the clean latent; model.json says the rest.
import {normal} from './noise.js';
import {Tokenizer, spelling} from './tokenizer.js';
import {drawn, edges} from './lines.js';

const THREADS = 4, LINES = {drawn, edges};
const json = async name => (await fetch(name)).json();

async function unpacked(name) {
    const answer = await fetch(name);
    if (!answer.ok) throw new Error(`${name} can't be fetched (${answer.status}).`);
    return new Response(answer.body.pipeThrough(new DecompressionStream('deflate'))).arrayBuffer();
}

// What executes networks, and how it is called.
async function runtime(build, provider) {
    const [ort, wasmBinary] = await Promise.all([import(`./${build.script}`), unpacked(build.binary)]);
    const numThreads = self.crossOriginIsolated ? Math.min(THREADS, navigator.hardwareConcurrency) : 1;
    Object.assign(ort.env.wasm, {wasmBinary, numThreads, wasmPaths: {mjs: new URL(build.glue, import.meta.url).href}});
    const called = provider === 'webgpu' ? 'WebGPU' : `WASM with ${numThreads} ${numThreads > 1 ? 'threads' : 'thread'}`;
    return {ort, provider, runtime: called};
}

export class Model {
    // With WebGPU where there is one that draws what Python does, else with WASM.
    //   report: told in a few words what is happening.
    static async load(report) {
        report('Fetching the model');
        const about = await json('model.json');
        const [vocabulary, merges, words] = await Promise.all([
            json('tokenizer/vocab.json'), fetch('tokenizer/merges.txt').then(answer => answer.text()), json('words.json'),
        ]);
        const tokenizer = new Tokenizer(vocabulary, merges, about.tokenizer), spell = spelling(words.emoji);
        const built = async provider => Object.assign(new Model(), {about, tokenizer, spell, ...await runtime(about.builds[provider], provider)}).ready();
        const gpu = await navigator.gpu?.requestAdapter().catch(() => null);
        if (gpu && !gpu.info?.isFallbackAdapter) {  // that one computes on the CPU, and slowly
            try {
                const model = await built('webgpu');
                if (await model.isRight()) return model;
            } catch (error) { console.warn(error); }
            report('WebGPU draws something else here; fetching the other build');
        }
        return built('wasm');
    }

    sessions = new Map();
    remembered = new Map();
    created = Promise.resolve();

    async ready() {
        await Promise.all(['text', 'network', 'decoder'].map(name => this.session(name)));
        return this;
    }

    // Whether a picture is the one that Python drew, but for rounding.
    async isRight() {
        const {prompt, seed, levels, tolerance} = this.about.proof;
        const {data} = await this.draw({prompt, seed});
        const ours = data.filter((_, place) => place % 4 < 3);
        return levels.every((level, place) => Math.abs(level - ours[place * Math.floor(ours.length / levels.length)]) <= tolerance);
    }

    // What a network needs is fetched when it is used first. One is created at a time: WebGPU can't do more.
    session(name) {
        if (!this.sessions.has(name)) {
            const bytes = unpacked(this.about.networks[name]), options = {executionProviders: [this.provider]};
            const made = this.created.then(() => bytes).then(each => this.ort.InferenceSession.create(each, options));
            this.created = made.catch(() => this.sessions.delete(name));  // the next picture tries again
            this.sessions.set(name, made);
        }
        return this.sessions.get(name);
    }

    // Outputs of a network, in order, of [values, shape] in order; it may not read all of them.
    async run(name, ...inputs) {
        const session = await this.session(name), tensors = {};
        for (const input of session.inputNames) {
            const [values, shape] = inputs[Number(input.replace('input', ''))];
            tensors[input] = new this.ort.Tensor(values instanceof BigInt64Array ? 'int64' : 'float32', values, shape);
        }
        const outputs = await session.run(tensors);
        return Promise.all(session.outputNames.map(output => outputs[output].getData()));
    }

    // What was made of the same thing last time; of each kind one is kept.
    async last(kind, of, make) {
        const kept = this.remembered.get(kind);
        if (kept && kept.of === of) return kept.made;
        const made = await make();
        this.remembered.set(kind, {of, made});
        return made;
    }

    read(prompt) {
        return this.last('text', prompt, async () => {
            const {numbers, cut} = this.tokenizer.read(this.spell(prompt));
            const [context] = await this.run('text', [BigInt64Array.from(numbers, BigInt), [1, numbers.length]]);
            return {context, cut};
        });
    }

    encode(picture) {
        return this.last('latent', picture, async () => {
            const {data, width, height} = picture, count = width * height, pixels = new Float32Array(3 * count);
            for (let place = 0; place < count; place++)
                for (let channel = 0; channel < 3; channel++)
                    pixels[channel * count + place] = data[4 * place + channel] / 127.5 - 1;
            return (await this.run('encoder', [pixels, [1, 3, height, width]]))[0];
        });
    }

    // What the ControlNet adds to the network; zeros where nothing is followed.
    async followed({picture, lines, follow}, noisy, t, context) {
        const {added, side} = this.about;
        if (!LINES[lines] || !follow || !picture) return added.map(shape => [new Float32Array(shape.reduce((a, b) => a * b)), shape]);
        const given = await this.last(lines, picture, () => LINES[lines](picture));
        const made = await this.run('control', noisy, t, context, [given, [1, 3, side, side]]);
        return made.map((values, index) => [values.map(value => value * follow), added[index]]);
    }

    // A picture {data: RGBA, width, height} and what it took.
    //   prompt: words.
    //   seed: 0 to 2^32 - 1.
    //   picture: of the model's size, what to start from and to follow; null for none.
    //   strength: how much of it is drawn anew: 0 to 1, in hundredths.
    //   lines: "drawn" or "edges" of the picture that are followed; else none.
    //   follow: how strongly, 0 to 2.
    async draw({prompt, seed, picture = null, strength = 1, lines = 'none', follow = 1}) {
        const started = performance.now(), {latent: shape, context: wide, side, edits, first} = this.about;
        const {context, cut} = await this.read(prompt);
        const [t, kept, drowned] = edits[picture ? Math.round(100 * strength) : 100];
        const size = shape.reduce((a, b) => a * b), channel = size / shape[0];
        let latent = normal(seed, size);
        if (t === edits[100][0]) latent = latent.map((value, place) => first.mean[Math.floor(place / channel)] + first.deviation[Math.floor(place / channel)] * value);
        else {
            const clean = await this.encode(picture);
            latent = t ? latent.map((value, place) => kept * clean[place] + drowned * value) : clean;
        }
        if (t) {
            const noisy = [latent, [1, ...shape]], at = [BigInt64Array.of(BigInt(t)), [1]], said = [context, [1, ...wide]];
            const added = this.about.networks.control ? await this.followed({picture, lines, follow}, noisy, at, said) : [];
            [latent] = await this.run('network', noisy, at, said, ...added);
        }
        const [pixels] = await this.run('decoder', [latent, [1, ...shape]]);
        const data = new Uint8ClampedArray(4 * side * side).fill(255);
        for (let place = 0; place < side * side; place++)
            for (let one = 0; one < 3; one++) data[4 * place + one] = (pixels[one * side * side + place] + 1) * 127.5;
        if (!pixels.every(Number.isFinite)) throw new Error(`Nothing came of seed ${seed}; try another one.`);
        return {data, width: side, height: side, cut, milliseconds: performance.now() - started, runtime: this.runtime};
    }
}
