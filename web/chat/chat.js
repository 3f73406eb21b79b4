// The chat page. models.json names the files: {base, voices: {name: adapter file}}. All are fetched once, at the start;
// from then on the network may be off. Another voice is the same base, loaded again with another adapter (a second or two).
import {Wllama} from "./wllama.js";

const MOST = 64; // tokens of an answer
const BASE = "base"; // the voice without an adapter
const place = id => document.getElementById(id);
const files = {};
let engine = ""; // where the page keeps wllama.wasm: each voice starts it anew, the network on or off
let wllama = null;
let loaded = null; // the voice that `wllama` has
let stop = null;

function say(text) {
    place("status").textContent = text;
}

function line(kind, who, text) {
    const shown = document.createElement("p");
    const name = document.createElement("strong");
    name.textContent = `${who}: `;
    const words = document.createElement("span");
    words.textContent = text;
    shown.className = kind;
    shown.append(name, words);
    place("log").append(shown);
    follow();
    return words;
}

function follow() {
    place("log").lastElementChild.scrollIntoView({block: "nearest"});
}

async function fetched(file) {
    say(`Loading ${file} …`);
    const answer = await fetch(file);
    if (!answer.ok) throw new Error(`${file} is missing (${answer.status})`);
    const bytes = Number(answer.headers.get("content-length"));
    if (bytes) say(`Loading ${file}, ${(bytes / 1e6).toFixed(1)} MB …`);
    return answer.blob();
}

async function fetchAll() {
    const named = JSON.parse(await (await fetched("models.json")).text());
    engine = URL.createObjectURL(await fetched("wllama.wasm"));
    const wanted = {[BASE]: named.base, ...named.voices};
    for (const [voice, file] of Object.entries(wanted)) {
        files[voice] = await fetched(file);
    }
    return Object.keys(wanted);
}

function offer(voices) {
    for (const voice of voices) {
        const label = document.createElement("label");
        const radio = document.createElement("input");
        Object.assign(radio, {type: "radio", name: "voice", value: voice, checked: voice === BASE});
        label.append(radio, ` ${voice}`);
        place("voices").append(label);
    }
}

async function load(voice) {
    if (loaded === voice) return;
    const start = performance.now();
    say(`Loading ${voice} …`);
    const quiet = () => {};
    await wllama?.exit().catch(quiet); // of an engine that failed
    loaded = null;
    wllama = new Wllama(
        {default: engine},
        {suppressNativeLog: true, logger: {debug: quiet, log: quiet, warn: quiet, error: console.error}},
    );
    const options = {n_ctx: 1024, n_threads: 1, n_gpu_layers: 0, n_parallel: 1};
    if (voice === BASE) {
        await wllama.loadModel([files[BASE]], options);
    } else {
        // wllama gives the files it is handed these names, in order: the second is the adapter.
        options.lora_adapters = [{path: "models/model-00002-of-00002.gguf", scale: 1}];
        await wllama.loadModel([files[BASE], files[voice]], options);
    }
    loaded = voice;
    say(`${voice} is ready, loaded in ${((performance.now() - start) / 1000).toFixed(1)} s.`);
}

async function answer(question) {
    const voice = document.querySelector("input[name=voice]:checked").value;
    line("asked", "You", question);
    await load(voice);
    const words = line(voice === BASE ? "answer of-base" : "answer", voice, "");
    stop = new AbortController();
    place("stop").disabled = false;
    let tokens = 0;
    let first = 0;
    const onData = chunk => {
        const text = chunk.choices[0]?.delta?.content;
        if (!text) return;
        first ||= performance.now();
        tokens += 1;
        words.textContent += text;
        follow();
    };
    const messages = [{role: "user", content: question}];
    const asked = {messages, max_tokens: MOST, temperature: 0, stream: true, abortSignal: stop.signal, onData};
    await wllama.createChatCompletion(asked).catch(error => {
        if (!stop.signal.aborted) throw error;
    });
    const seconds = (performance.now() - first) / 1000;
    const speed = tokens > 1 ? `, ${((tokens - 1) / seconds).toFixed(1)} tokens a second` : "";
    say(`${voice}: ${tokens} tokens${speed}.`);
}

async function busy(work) {
    for (const id of ["voices", "send"]) place(id).disabled = true;
    place("log").ariaBusy = "true"; // so that an answer is read aloud once, when it is whole
    try {
        await work();
    } catch (error) {
        say(`Something went wrong: ${error.message}`);
    }
    // Where the files never came there is no voice to ask, and the line that says why stays.
    const offered = document.querySelector("input[name=voice]") !== null;
    for (const id of ["voices", "send"]) place(id).disabled = !offered;
    place("stop").disabled = true;
    place("log").ariaBusy = "false";
}

place("ask").addEventListener("submit", event => {
    event.preventDefault();
    const question = place("question").value.trim();
    if (!question || place("send").disabled) return;
    place("question").value = "";
    busy(() => answer(question)).then(() => place("question").focus());
});
place("stop").addEventListener("click", () => stop?.abort());

await busy(async () => {
    offer(await fetchAll());
    await load(BASE);
});
place("question").focus();
