// The worker, as the page speaks to it.
export class Artist {
    // told: called with a few words about what is happening.
    constructor(told = () => {}) {
        this.worker = new Worker(new URL('worker.js', import.meta.url), {type: 'module'});
        this.asked = 0;
        this.waiting = new Map();
        this.worker.onmessage = ({data}) => data.told ? told(data.told) : this.answer(data);
        this.worker.onerror = event => { for (const id of this.waiting.keys()) this.answer({id, problem: event.message ?? 'The worker stopped; reload the page.'}); };
    }

    // What `Model.draw` returns; null where a later request was drawn in its place.
    draw(request) {
        const id = ++this.asked;
        this.worker.postMessage({id, request});
        return new Promise((resolve, reject) => this.waiting.set(id, {resolve, reject}));
    }

    answer({id, made, problem}) {
        for (const [other, {resolve, reject}] of this.waiting) {
            if (other > id) continue;
            this.waiting.delete(other);
            if (other < id) resolve(null);
            else if (problem) reject(new Error(problem));
            else resolve(made);
        }
    }
}
