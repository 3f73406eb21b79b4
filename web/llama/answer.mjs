// Answers greedily with llama.cpp on one CPU thread. Reads JSON from stdin and prints JSON:
// {model, voices: {name: {adapter: file or null, most}}, prompts} -> {name: [{prompt: [ids], reply: [ids], text}]}
// A prompt is the text that a chat template made, special tokens included; `most` limits the tokens of a reply.
import {text} from "node:stream/consumers";
import {getLlama} from "node-llama-cpp";

// Not fs.readFileSync and fs.writeSync: they take no more than a pipe holds.
const {model: file, voices, prompts} = JSON.parse(await text(process.stdin));
const llama = await getLlama({build: "never", gpu: false, progressLogs: false, logLevel: "error", maxThreads: 1});
const model = await llama.loadModel({modelPath: file});
const answers = {};
for (const [name, {adapter, most}] of Object.entries(voices)) {
    const context = await model.createContext({contextSize: 512, threads: 1, lora: adapter ?? undefined});
    const sequence = context.getSequence();
    answers[name] = [];
    for (const prompt of prompts) {
        const ids = model.tokenize(prompt, true);
        const reply = [];
        await sequence.adaptStateToTokens(ids.slice(0, -1), false);  // what the last prompt began with too is not read again
        for await (const id of sequence.evaluate(ids.slice(sequence.nextTokenIndex), {temperature: 0})) {
            if (model.isEogToken(id) || reply.length === most) break;
            reply.push(id);
        }
        answers[name].push({prompt: ids, reply, text: model.detokenize(reply)});
    }
    await context.dispose();
}
process.stdout.write(JSON.stringify(answers), () => process.exit(0));
