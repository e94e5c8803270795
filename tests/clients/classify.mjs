// Classify lines of text with an exported student, offline: node classify.mjs STUDENT DTYPE < texts.json > scores.json
import { readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { AutoConfig, env, pipeline } from '@huggingface/transformers';

const [student, dtype, family] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(student);

const name = basename(student);
const config = await AutoConfig.from_pretrained(name);
config.model_type = family; // the name under which transformers.js knows the architecture
const classify = await pipeline('text-classification', name, { config, dtype });
const results = [];
for (const text of JSON.parse(readFileSync(0, 'utf8'))) {
    results.push((await classify(text))[0]);
}
process.stdout.write(JSON.stringify(results));
