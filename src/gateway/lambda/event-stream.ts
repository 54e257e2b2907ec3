/** Frames of `application/vnd.amazon.eventstream` (https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html#streaming-event-stream). */

import { crc32 } from 'node:zlib';

const PRELUDE_BYTES = 12;
const CRC_BYTES = 4;
/** The type of a header value that is text. */
const TEXT = 7;

/** One message: lengths, their checksum, headers, payload, the checksum of all. */
function encodeFrame(headers: Readonly<Record<string, string>>, payload: Uint8Array): Uint8Array {
  const head = Buffer.concat(Object.entries(headers).map(([name, value]) => encodeHeader(name, value)));
  const frame = Buffer.allocUnsafe(PRELUDE_BYTES + head.length + payload.length + CRC_BYTES);
  frame.writeUInt32BE(frame.length, 0);
  frame.writeUInt32BE(head.length, 4);
  frame.writeUInt32BE(crc32(frame.subarray(0, 8)), 8);
  head.copy(frame, PRELUDE_BYTES);
  frame.set(payload, PRELUDE_BYTES + head.length);
  frame.writeUInt32BE(crc32(frame.subarray(0, -CRC_BYTES)), frame.length - CRC_BYTES);
  return frame;
}

function encodeHeader(name: string, value: string): Buffer {
  const text = Buffer.from(value);
  const head = Buffer.from([Buffer.byteLength(name), ...Buffer.from(name), TEXT, text.length >> 8, text.length & 0xff]);
  return Buffer.concat([head, text]);
}

export function payloadChunk(chunk: Uint8Array): Uint8Array {
  return encodeFrame({ ':message-type': 'event', ':event-type': 'PayloadChunk', ':content-type': 'application/octet-stream' }, chunk);
}

export interface InvokeComplete {
  readonly ErrorCode?: string;
  readonly ErrorDetails?: string;
  readonly LogResult?: string;
}

export function invokeComplete(event: InvokeComplete): Uint8Array {
  return encodeFrame(
    { ':message-type': 'event', ':event-type': 'InvokeComplete', ':content-type': 'application/json' },
    Buffer.from(JSON.stringify(event)),
  );
}
