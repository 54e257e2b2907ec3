/** What a module writes to stdout. Part of the program of an instance's thread: see `wasi.ts`. */

/** So many are put together: who writes byte by byte has no more objects in the heap of the thread than others. */
const PIECES_MAX = 1_024;

export class Answer {
  readonly #bytesMax: number;
  readonly #pieces: Uint8Array[] = [];
  /** Of the pieces, those at the beginning that were put together. */
  #joined = 0;
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get isTooLarge(): boolean {
    return this.#bytes > this.#bytesMax;
  }

  /** A copy of the piece; none of what would be too much. */
  add(piece: Uint8Array): void {
    this.#bytes += piece.length;
    if (piece.length === 0 || this.isTooLarge) return;
    this.#pieces.push(piece.slice());
    if (this.#pieces.length - this.#joined < PIECES_MAX) return;
    this.#pieces.push(Buffer.concat(this.#pieces.splice(this.#joined)));
    this.#joined += 1;
  }

  /** All of it. */
  whole(): Uint8Array {
    const [first] = this.#pieces;
    return this.#pieces.length === 1 && first ? first : Buffer.concat(this.#pieces);
  }
}
