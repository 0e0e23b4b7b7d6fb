// build.mjs SOURCE WIT WORLD OUTPUT: makes a component of a JavaScript module (componentize-js).
import { componentize } from '@bytecodealliance/componentize-js';
import { writeFile } from 'node:fs/promises';

const [sourcePath, witPath, worldName, output] = process.argv.slice(2);
// Without the fetch event, for which the tool has an older wasi:http than ours in mind.
const { component } = await componentize({ sourcePath, witPath, worldName, disableFeatures: ['http', 'fetch-event'] });
await writeFile(output, component);
