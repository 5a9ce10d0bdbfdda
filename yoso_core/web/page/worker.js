// Draws beside the page, one picture at a time: of all requests that come meanwhile only the last is drawn.
import {Model} from './model.js';

const report = told => postMessage({told});
const turn = () => new Promise(resolve => setTimeout(resolve));  // what has come meanwhile is heard
let model = null, wanted = null, busy = false;

onmessage = async ({data}) => {
    wanted = data;
    if (busy) return;
    busy = true;
    while (wanted) {
        const {id, request} = wanted;
        wanted = null;
        try {
            model ??= await Model.load(report);
            const made = await model.draw(request);
            postMessage({id, made}, [made.data.buffer]);
        } catch (error) {
            postMessage({id, problem: error.message});
        }
        await turn();
    }
    busy = false;
};
