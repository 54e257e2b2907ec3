/** How large a zip is when it is unpacked, as its directory says. Pure. */

const END_SIGNATURE = 0x06054b50;
const ENTRY_SIGNATURE = 0x02014b50;
const END_BYTES = 22;
const ENTRY_BYTES = 46;
const COMMENT_BYTES_MAX = 65_535;

/** Undefined when this is no zip. */
export function unpackedBytes(zip: Uint8Array): number | undefined {
  const bytes = Buffer.from(zip.buffer, zip.byteOffset, zip.byteLength);
  for (let end = bytes.length - END_BYTES; end >= Math.max(0, bytes.length - END_BYTES - COMMENT_BYTES_MAX); end -= 1) {
    if (bytes.readUInt32LE(end) === END_SIGNATURE) return sumOf(bytes, bytes.readUInt32LE(end + 16), bytes.readUInt16LE(end + 10));
  }
  return undefined;
}

function sumOf(bytes: Buffer, start: number, count: number): number | undefined {
  let total = 0;
  let at = start;
  for (let index = 0; index < count; index += 1) {
    if (at + ENTRY_BYTES > bytes.length || bytes.readUInt32LE(at) !== ENTRY_SIGNATURE) return undefined;
    total += bytes.readUInt32LE(at + 24);
    at += ENTRY_BYTES + bytes.readUInt16LE(at + 28) + bytes.readUInt16LE(at + 30) + bytes.readUInt16LE(at + 32);
  }
  return total;
}
