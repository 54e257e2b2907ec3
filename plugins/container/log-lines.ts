/** Lines of what containers wrote, out of the frames that the engine sends: a kind, three zeros, a length of four bytes, then so many bytes. */

const HEADER_BYTES = 8;

export class LogLines {
  #rest: Buffer = Buffer.alloc(0);
  readonly #partial = new Map<number, string>();

  /** The lines that are complete now. */
  add(chunk: Buffer): string[] {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    const lines: string[] = [];
    while (this.#rest.length >= HEADER_BYTES) {
      const end = HEADER_BYTES + this.#rest.readUInt32BE(4);
      if (this.#rest.length < end) break;
      const kind = this.#rest[0] ?? 0;
      const text = (this.#partial.get(kind) ?? '') + this.#rest.toString('utf8', HEADER_BYTES, end);
      const complete = text.split('\n');
      this.#partial.set(kind, complete.pop() ?? '');
      lines.push(...complete);
      this.#rest = this.#rest.subarray(end);
    }
    return lines;
  }
}
