/**
 * What starts in a pod: puts the package together from the parts that are mounted beside it, unpacks it into the temporary folder, and
 * becomes the program in it. With `call` as its argument it starts the program beside itself, posts one event to it, and ends with 1 when
 * the program fails. With `unpack` and a folder it only unpacks into that. Plain JavaScript, because it runs as it is.
 */
export const LOADER = `'use strict';
const fs = require('node:fs');
const path = require('node:path');
const zlib = require('node:zlib');
const { createHash } = require('node:crypto');
const { env } = process;
const parts = fs.readdirSync(__dirname).filter((name) => /^part-\\d+$/.test(name)).sort();
const zip = Buffer.concat(parts.map((name) => fs.readFileSync(path.join(__dirname, name))));
const sha256 = createHash('sha256').update(zip).digest('hex');
if (sha256 !== env.BLUEPRINT_PACKAGE_SHA256) throw new Error('the package has SHA-256 ' + sha256 + ', not ' + env.BLUEPRINT_PACKAGE_SHA256);
const folder = process.argv[2] === 'unpack' ? process.argv[3] : fs.mkdtempSync(path.join(require('node:os').tmpdir(), 'code-'));
let end = zip.length - 22;
while (end >= 0 && zip.readUInt32LE(end) !== 0x06054b50) end -= 1;
if (end < 0) throw new Error('the package is no zip');
for (let count = zip.readUInt16LE(end + 10), at = zip.readUInt32LE(end + 16); count > 0; count -= 1) {
  const [method, size, nameBytes] = [zip.readUInt16LE(at + 10), zip.readUInt32LE(at + 20), zip.readUInt16LE(at + 28)];
  const [mode, offset] = [zip.readUInt32LE(at + 38) >>> 16, zip.readUInt32LE(at + 42)];
  const name = zip.toString('utf8', at + 46, at + 46 + nameBytes);
  at += 46 + nameBytes + zip.readUInt16LE(at + 30) + zip.readUInt16LE(at + 32);
  if (name.endsWith('/')) continue;
  const file = path.resolve(folder, name);
  if (!file.startsWith(folder + path.sep)) throw new Error('the path ' + name + ' leaves the package');
  const start = offset + 30 + zip.readUInt16LE(offset + 26) + zip.readUInt16LE(offset + 28);
  const data = zip.subarray(start, start + size);
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, method === 0 ? data : zlib.inflateRawSync(data), { mode: mode & 0o111 ? 0o755 : 0o644 });
}
if (process.argv[2] === 'unpack') process.exit(0);
process.chdir(folder);
const given = env.BLUEPRINT_ARGS === undefined ? [] : JSON.parse(env.BLUEPRINT_ARGS);
const entry = ['handler.mjs', 'index.mjs', 'index.js', 'index.cjs'].find((name) => fs.existsSync(name));
const command = given.length > 0 ? [process.execPath, ...given]
  : env.BLUEPRINT_CUSTOM === '1' ? ['/bin/sh', 'bootstrap']
  : [process.execPath, entry];
if (command[1] === undefined) throw new Error('the package holds none of handler.mjs, index.mjs, index.js, index.cjs');
if (process.argv[2] !== 'call') process.execve(command[0], command, env);
const event = env.BLUEPRINT_EVENT_FILE === undefined ? env.BLUEPRINT_EVENT : fs.readFileSync(env.BLUEPRINT_EVENT_FILE);
const child = require('node:child_process').spawn(command[0], command.slice(1), { stdio: 'inherit' });
child.on('exit', (code) => process.exit(code || 1));
const url = 'http://127.0.0.1:' + env.PORT + '/';
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
(async () => {
  while (!(await fetch(url + 'healthz').then((response) => response.ok, () => false))) await wait(50);
  const response = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: event });
  const text = await response.text();
  if (!response.ok) process.stderr.write('the call failed with status ' + response.status + ': ' + text + '\\n');
  child.removeAllListeners('exit');
  child.on('exit', () => process.exit(response.ok ? 0 : 1));
  child.kill('SIGTERM');
})().catch((error) => {
  process.stderr.write(String(error) + '\\n');
  child.kill('SIGKILL');
  process.exit(1);
});
`;

/** Posts one event to an address and ends with 1 when it is refused: what a schedule runs. */
export const CALLER = `fetch(process.env.BLUEPRINT_URL, { method: 'POST', headers: { 'content-type': 'application/json' }, body: process.env.BLUEPRINT_EVENT, signal: AbortSignal.timeout(Number(process.env.BLUEPRINT_TIMEOUT_MS)) }).then(async (response) => {
  const text = await response.text();
  if (response.ok) return;
  console.error('the call failed with status ' + response.status + ': ' + text);
  process.exitCode = 1;
}, (error) => {
  console.error('the call was not answered: ' + (error.cause?.message ?? error.message));
  process.exitCode = 1;
});`;
