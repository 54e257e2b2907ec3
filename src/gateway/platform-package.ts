/**
 * Packages of the Custom FaaS Platform Specification: a zip with an executable `bootstrap`. One that this project built is loaded as
 * a module; any other is started for each call, with JSON on its standard input and output, by a small program that is added to the zip.
 */

import { crc32 } from 'node:zlib';
import { RunnerError } from '../errors.ts';

export interface PlatformPackage {
  readonly zip: Uint8Array;
  readonly runtime: string;
  readonly handler: string;
}

const SHIM_FILE = 'blueprint-stdio.mjs';
const END = 0x06054b50;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
const END_BYTES = 22;
const COMMENT_BYTES_MAX = 65_535;
const MADE_BY_UNIX = 0x0314;
const VERSION_NEEDED = 20;
const REGULAR_FILE = 0o100644;
const EXECUTABLE_FILE = 0o100755;
/** 1 January 1980: the earliest that a zip can say. */
const DATE = 0x21;

/** Names of the variables that the author set: the program gets no other, but PATH. Throws `PACKAGE_INVALID`. */
export function platformPackage(zip: Uint8Array, variables: readonly string[]): PlatformPackage {
  const directory = readDirectory(Buffer.from(zip.buffer, zip.byteOffset, zip.length));
  if (!directory.names.includes('bootstrap')) throw bad('has no file bootstrap at its root');
  // What this project built is a module as well: it is there sooner than a program that has to be started.
  if (directory.names.includes('handler.json') && directory.names.includes('handler.mjs')) {
    return { zip, runtime: 'nodejs24.x', handler: 'handler.handler' };
  }
  if (directory.names.includes(SHIM_FILE)) throw bad(`has a file ${SHIM_FILE}, a name that the platform uses`);
  return { zip: withFile(zip, directory, Buffer.from(shimSource(variables))), runtime: 'nodejs24.x', handler: 'blueprint-stdio.handler' };
}

interface Directory {
  readonly names: readonly string[];
  readonly count: number;
  readonly offset: number;
  readonly bytes: number;
  /** Of the entry of bootstrap. */
  readonly bootstrapAt: number;
}

/** Only as much as is needed here: the store checks the whole zip when it unpacks it. */
function readDirectory(zip: Buffer): Directory {
  let end = zip.length - END_BYTES;
  const lowest = Math.max(0, end - COMMENT_BYTES_MAX);
  while (end >= lowest && zip.readUInt32LE(end) !== END) end -= 1;
  if (end < lowest) throw bad('is not a zip file');
  const count = zip.readUInt16LE(end + 10);
  const bytes = zip.readUInt32LE(end + 12);
  const offset = zip.readUInt32LE(end + 16);
  if (offset + bytes > end || count === 0xffff) throw bad('is not a zip file that can be read: its directory lies outside of it');
  const names: string[] = [];
  let bootstrapAt = offset;
  let at = offset;
  for (let index = 0; index < count; index += 1) {
    if (at + 46 > end || zip.readUInt32LE(at) !== ENTRY) throw bad('is not a zip file that can be read: its directory is damaged');
    const nameBytes = zip.readUInt16LE(at + 28);
    const name = zip.toString('utf8', at + 46, at + 46 + nameBytes);
    if (name === 'bootstrap') bootstrapAt = at;
    names.push(name);
    at += 46 + nameBytes + zip.readUInt16LE(at + 30) + zip.readUInt16LE(at + 32);
  }
  return { names, count, offset, bytes, bootstrapAt };
}

/** The same zip with one more file, stored as it is, and a bootstrap that can be executed, whatever its packer said. */
function withFile(zip: Uint8Array, { count, offset, bytes, bootstrapAt }: Directory, content: Uint8Array): Uint8Array {
  const directory = Buffer.from(zip.subarray(offset, offset + bytes));
  directory.writeUInt16LE(MADE_BY_UNIX, bootstrapAt - offset + 4);
  directory.writeUInt32LE((EXECUTABLE_FILE << 16) >>> 0, bootstrapAt - offset + 38);
  const name = Buffer.from(SHIM_FILE);
  const common = Buffer.alloc(26);
  common.writeUInt16LE(VERSION_NEEDED, 0);
  common.writeUInt16LE(DATE, 8);
  common.writeUInt32LE(crc32(content), 10);
  common.writeUInt32LE(content.length, 14);
  common.writeUInt32LE(content.length, 18);
  common.writeUInt16LE(name.length, 22);
  const local = Buffer.concat([uint32(LOCAL), common, name, content]);
  const tail = Buffer.alloc(14);
  tail.writeUInt32LE((REGULAR_FILE << 16) >>> 0, 6);
  tail.writeUInt32LE(offset, 10);
  const madeBy = Buffer.alloc(2);
  madeBy.writeUInt16LE(MADE_BY_UNIX);
  const entry = Buffer.concat([uint32(ENTRY), madeBy, common, tail, name]);
  const end = Buffer.alloc(END_BYTES);
  end.writeUInt32LE(END, 0);
  end.writeUInt16LE(count + 1, 8);
  end.writeUInt16LE(count + 1, 10);
  end.writeUInt32LE(bytes + entry.length, 12);
  end.writeUInt32LE(offset + local.length, 16);
  return Buffer.concat([zip.subarray(0, offset), local, directory, entry, end]);
}

function uint32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32LE(value);
  return buffer;
}

function bad(what: string): RunnerError {
  return new RunnerError('PACKAGE_INVALID', `the upload ${what}`);
}

/** Errors carry the names below as their type. */
export const STDIO_ERRORS = { unstartable: 'BootstrapUnstartable', failed: 'BootstrapFailed', silent: 'BootstrapSilent' } as const;

function shimSource(variables: readonly string[]): string {
  return `import { spawn } from 'node:child_process';
const names = ${JSON.stringify(variables)};
const env = { PATH: process.env.PATH };
for (const name of names) if (process.env[name] !== undefined) env[name] = process.env[name];
const failure = (name, message) => Object.assign(new Error(message), { name });
export const handler = (event) => new Promise((resolve, reject) => {
  const child = spawn('./bootstrap', [], { cwd: import.meta.dirname, env, stdio: ['pipe', 'pipe', 'pipe'] });
  const output = [];
  let errors = '';
  child.once('error', (error) => reject(failure('${STDIO_ERRORS.unstartable}', 'bootstrap cannot be started: ' + error.message)));
  child.stdin.on('error', () => {});
  child.stdout.on('data', (chunk) => output.push(chunk));
  child.stderr.on('data', (chunk) => {
    process.stderr.write(chunk);
    errors = (errors + chunk).slice(-2000);
  });
  child.once('close', (code, signal) => {
    const text = Buffer.concat(output).toString('utf8');
    if (code !== 0 && text === '') {
      const how = signal ? 'was ended by ' + signal : 'ended with exit code ' + code;
      return reject(failure('${STDIO_ERRORS.failed}', 'bootstrap ' + how + (errors && ': ' + errors.trim())));
    }
    try {
      const value = JSON.parse(text);
      if (value !== null && typeof value === 'object' && !Array.isArray(value)) return resolve(value);
    } catch {}
    reject(failure('${STDIO_ERRORS.silent}', 'the function did not write a JSON object to its standard output'));
  });
  child.stdin.end(JSON.stringify(event));
});
`;
}
