/** What handlers in AssemblyScript (https://www.assemblyscript.org) are compiled with, as its source text. */

/** Importable as `blueprint`; what is global there replaces what browsers would bring. */
export const LIBRARY = `
@external("wasi_snapshot_preview1", "fd_read")
declare function fd_read(fd: u32, vectors: usize, count: u32, read: usize): u32;
@external("wasi_snapshot_preview1", "fd_write")
declare function fd_write(fd: u32, vectors: usize, count: u32, written: usize): u32;
@external("wasi_snapshot_preview1", "proc_exit")
declare function proc_exit(status: u32): void;
@external("wasi_snapshot_preview1", "random_get")
declare function random_get(at: usize, length: u32): u32;
@external("wasi_snapshot_preview1", "clock_time_get")
declare function clock_time_get(clock: u32, precision: u64, at: usize): u32;
@external("wasi_snapshot_preview1", "environ_sizes_get")
declare function environ_sizes_get(count: usize, bytes: usize): u32;
@external("wasi_snapshot_preview1", "environ_get")
declare function environ_get(pointers: usize, text: usize): u32;

const words: usize = memory.data(32);
const CHUNK: u32 = 65536;

/** All of stdin. */
export function readEvent(): ArrayBuffer {
  let buffer = new ArrayBuffer(CHUNK);
  let length: u32 = 0;
  while (true) {
    if (length + CHUNK > <u32>buffer.byteLength) {
      const larger = new ArrayBuffer(buffer.byteLength * 2);
      memory.copy(changetype<usize>(larger), changetype<usize>(buffer), length);
      buffer = larger;
    }
    store<u32>(words, <u32>changetype<usize>(buffer) + length);
    store<u32>(words, CHUNK, 4);
    if (fd_read(0, words, 1, words + 8) != 0) break;
    const read = load<u32>(words, 8);
    if (read == 0) break;
    length += read;
  }
  return buffer.slice(0, length);
}

/** To 1, stdout, which is the answer, or 2, stderr, which is the log. */
export function writeBytes(fd: u32, bytes: ArrayBuffer): void {
  store<u32>(words, <u32>changetype<usize>(bytes));
  store<u32>(words, bytes.byteLength, 4);
  fd_write(fd, words, 1, words + 8);
}

/** A line of the log. */
export function log(text: string): void {
  writeBytes(2, String.UTF8.encode(text + "\\n"));
}

/** Ends the call; anything but 0 is a failure. */
export function exit(status: u32): void {
  proc_exit(status);
}

/** NAME=value for each variable that the function was given. */
export function environment(): string[] {
  environ_sizes_get(words, words + 4);
  const count = load<u32>(words);
  const pointers = new ArrayBuffer(4 * count);
  const text = new ArrayBuffer(load<u32>(words, 4));
  environ_get(changetype<usize>(pointers), changetype<usize>(text));
  const lines: string[] = [];
  for (let index: u32 = 0; index < count; index += 1) {
    const at = load<u32>(changetype<usize>(pointers) + 4 * index);
    let length: u32 = 0;
    while (load<u8>(at + length) != 0) length += 1;
    lines.push(String.UTF8.decodeUnsafe(at, length));
  }
  return lines;
}

/** The value of a variable, or null. */
export function variable(name: string): string | null {
  const lines = environment();
  for (let index = 0; index < lines.length; index += 1)
    if (lines[index].startsWith(name + "=")) return lines[index].substring(name.length + 1);
  return null;
}

/** Milliseconds since the epoch. */
export function now(): i64 {
  clock_time_get(0, 1000000, words);
  return load<i64>(words) / 1000000;
}

/** Random, or the same for the same event in a deterministic function. */
export function randomBytes(length: i32): ArrayBuffer {
  const bytes = new ArrayBuffer(length);
  random_get(changetype<usize>(bytes), length);
  return bytes;
}

/** The text of a field of a flat JSON object: of a string without its quotes, of anything else as it stands; null when there is none. */
export function jsonField(json: string, name: string): string | null {
  const key = '"' + name + '"';
  let at = 0;
  while (true) {
    at = json.indexOf(key, at);
    if (at < 0) return null;
    let colon = at + key.length;
    while (colon < json.length && isSpace(json.charCodeAt(colon))) colon += 1;
    if (colon < json.length && json.charCodeAt(colon) == 58) {
      let from = colon + 1;
      while (from < json.length && isSpace(json.charCodeAt(from))) from += 1;
      const text = json.substring(from, endOfValue(json, from));
      return text.startsWith('"') ? unescaped(text) : text;
    }
    at += key.length;
  }
  return null;
}

/** The text of a field as it stands: valid JSON again. */
export function jsonValue(json: string, name: string): string | null {
  const at = json.indexOf('"' + name + '":');
  if (at < 0) return null;
  const from = at + name.length + 3;
  return json.substring(from, endOfValue(json, from));
}

/** A JSON string. */
export function quoted(text: string): string {
  let out = '"';
  for (let index = 0; index < text.length; index += 1) {
    const code = text.charCodeAt(index);
    if (code == 34 || code == 92) out += "\\\\" + String.fromCharCode(code);
    else if (code < 32) out += "\\\\u00" + (code < 16 ? "0" : "") + code.toString(16);
    else out += String.fromCharCode(code);
  }
  return out + '"';
}

function isSpace(code: i32): bool {
  return code == 32 || code == 9 || code == 10 || code == 13;
}

function endOfValue(json: string, from: i32): i32 {
  let depth = 0;
  let isText = false;
  for (let at = from; at < json.length; at += 1) {
    const code = json.charCodeAt(at);
    if (isText) {
      if (code == 92) at += 1;
      else if (code == 34) {
        isText = false;
        if (depth == 0) return at + 1;
      }
    } else if (code == 34) isText = true;
    else if (code == 123 || code == 91) depth += 1;
    else if (code == 125 || code == 93 || code == 44) {
      if (depth == 0) return at;
      if (code != 44) {
        depth -= 1;
        if (depth == 0) return at + 1;
      }
    }
  }
  return json.length;
}

function unescaped(text: string): string {
  let out = "";
  const end = text.length - 1;
  for (let at = 1; at < end; at += 1) {
    const code = text.charCodeAt(at);
    if (code != 92) {
      out += String.fromCharCode(code);
      continue;
    }
    at += 1;
    const kind = text.charCodeAt(at);
    if (kind == 110) out += "\\n";
    else if (kind == 116) out += "\\t";
    else if (kind == 114) out += "\\r";
    else if (kind == 98) out += "\\b";
    else if (kind == 102) out += "\\f";
    else if (kind == 117) {
      out += String.fromCharCode(<i32>parseInt(text.substring(at + 1, at + 5), 16));
      at += 4;
    } else out += String.fromCharCode(kind);
  }
  return out;
}

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

export function base64Of(bytes: ArrayBuffer): string {
  const view = Uint8Array.wrap(bytes);
  const text = new Uint8Array(((view.length + 2) / 3) * 4);
  let to = 0;
  for (let at = 0; at < view.length; at += 3) {
    const left = view.length - at;
    const word = (<u32>view[at] << 16) | (left > 1 ? <u32>view[at + 1] << 8 : 0) | (left > 2 ? <u32>view[at + 2] : 0);
    text[to] = <u8>ALPHABET.charCodeAt(word >> 18);
    text[to + 1] = <u8>ALPHABET.charCodeAt((word >> 12) & 63);
    text[to + 2] = left > 1 ? <u8>ALPHABET.charCodeAt((word >> 6) & 63) : 61;
    text[to + 3] = left > 2 ? <u8>ALPHABET.charCodeAt(word & 63) : 61;
    to += 4;
  }
  return String.UTF8.decode(text.buffer);
}

export function bytesOfBase64(text: string): ArrayBuffer {
  const values = new StaticArray<u8>(128);
  for (let index = 0; index < 64; index += 1) values[ALPHABET.charCodeAt(index)] = <u8>index;
  let length = text.length;
  while (length > 0 && text.charCodeAt(length - 1) == 61) length -= 1;
  const bytes = new Uint8Array((length * 3) / 4);
  let word: u32 = 0;
  let bits = 0;
  let to = 0;
  for (let at = 0; at < length; at += 1) {
    word = (word << 6) | values[text.charCodeAt(at) & 127];
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes[to] = <u8>(word >> bits);
      to += 1;
    }
  }
  return bytes.buffer;
}

/** A call of a job, as a runner sends it. */
export class JobCall {
  constructor(
    public readonly jobId: u64,
    public readonly args: ArrayBuffer,
  ) {}

  static parse(event: ArrayBuffer): JobCall {
    const json = String.UTF8.decode(event);
    const jobId = jsonField(json, "job_id");
    const args = jsonField(json, "args_base64");
    return new JobCall(jobId == null ? 0 : U64.parseInt(jobId), args == null ? new ArrayBuffer(0) : bytesOfBase64(args));
  }
}

/** The answer of a job with this result. */
export function jobResult(result: ArrayBuffer): ArrayBuffer {
  return String.UTF8.encode('{"result_base64":"' + base64Of(result) + '"}');
}

/** The answer of a job that has none. */
export function noResult(): ArrayBuffer {
  return String.UTF8.encode('{"result_base64":null}');
}

@global
export function blueprint_abort(message: string | null, file: string | null, line: u32, column: u32): void {
  log((message == null ? "aborted" : message) + (file == null ? "" : " (" + file + ":" + line.toString() + ":" + column.toString() + ")"));
  proc_exit(134);
}

@global
export function blueprint_seed(): f64 {
  random_get(words, 8);
  return reinterpret<f64>(load<u64>(words) & 0x3fffffffffffffff);
}

@global
export function blueprint_trace(message: string, _count: i32 = 0, _a: f64 = 0, _b: f64 = 0, _c: f64 = 0, _d: f64 = 0, _e: f64 = 0): void {
  log(message);
}

@global
export namespace blueprint_console {
  export function log(message: string = ""): void { writeBytes(2, String.UTF8.encode(message + "\\n")); }
  export function info(message: string = ""): void { log(message); }
  export function debug(message: string = ""): void { log(message); }
  export function warn(message: string = ""): void { log(message); }
  export function error(message: string = ""): void { log(message); }
}
`;

/** Reads the event, has the handler answer it, writes the answer. */
export const entryFor = (module: string): string => `
import { readEvent, writeBytes } from "blueprint";
import { handler } from ${JSON.stringify(module)};

export function _start(): void {
  writeBytes(1, handler(readEvent()));
}
`;
