// build.mjs MODULE WIT OUTPUT: makes a component of a Go reactor, with the world of WIT (jco).
import { componentEmbed, componentNew, preview1AdapterReactorPath } from '@bytecodealliance/jco';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const [modulePath, witPath, output] = process.argv.slice(2);

// The tool reads no directories, so all packages go into one text.
const nested = async (path) => {
  const text = await readFile(path, 'utf8');
  return text.replace(/^package ([^;]+);$/m, 'package $1 {') + '\n}\n';
};
const names = await readdir(join(witPath, 'deps'));
const packages = await Promise.all(names.map((name) => nested(join(witPath, 'deps', name))));
const world = await readFile(join(witPath, 'world.wit'), 'utf8');

const binary = await componentEmbed({
  binary: await readFile(modulePath),
  witSource: world + packages.join(''),
  world: 'bindings',
});
const adapter = await readFile(preview1AdapterReactorPath());
await writeFile(output, await componentNew(binary, [['wasi_snapshot_preview1', adapter]]));
