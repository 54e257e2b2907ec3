/** Secrets by reference: configuration says where a secret is, never what it is. */

import { readFileSync } from 'node:fs';
import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';

/** `env:NAME`, `file:/path`, or a function that gives the secret. */
export type SecretReference = string | (() => string | Promise<string>);

/** How long what a file said is believed: a rotated secret is taken up within this time. */
const FILE_AGE_MS_MAX = 1_000;

export interface SecretOptions {
  readonly environment?: NodeJS.ProcessEnv;
  readonly clock?: Clock;
}

export class Secret {
  readonly #reference: SecretReference;
  readonly #environment: NodeJS.ProcessEnv;
  readonly #clock: Clock;
  #fromFile = '';
  #readAt = Number.NEGATIVE_INFINITY;

  /** Reads nothing. Throws `CONFIG_INVALID` for text that is not a reference; the text is not repeated, it may be the secret. */
  constructor(reference: SecretReference, { environment = process.env, clock = systemClock }: SecretOptions = {}) {
    if (typeof reference !== 'function' && !/^(env|file):./.test(reference)) {
      throw new RunnerError('CONFIG_INVALID', 'a secret is given as text; write env:NAME, file:/path, or pass a function');
    }
    this.#reference = reference;
    this.#environment = environment;
    this.#clock = clock;
  }

  /** Where the secret comes from, for people. */
  get source(): string {
    return typeof this.#reference === 'function' ? 'function' : this.#reference;
  }

  /** The secret as it is now. Throws or rejects with `CONFIG_INVALID` when there is none. */
  read(): string | Promise<string> {
    const reference = this.#reference;
    if (typeof reference === 'function') return reference();
    return reference.startsWith('env:') ? this.#readVariable(reference.slice(4)) : this.#readFile(reference.slice(5));
  }

  #readVariable(name: string): string {
    const value = this.#environment[name];
    if (!value)
      throw new RunnerError('CONFIG_INVALID', `the environment variable ${name}, which should hold a secret, is not set`, {
        details: { name },
      });
    return value;
  }

  #readFile(file: string): string {
    const now = this.#clock.monotonic();
    if (now - this.#readAt < FILE_AGE_MS_MAX) return this.#fromFile;
    try {
      this.#fromFile = readFileSync(file, 'utf8').trim();
    } catch (cause) {
      throw new RunnerError('CONFIG_INVALID', `the file ${file}, which should hold a secret, cannot be read`, { cause, details: { file } });
    }
    if (!this.#fromFile)
      throw new RunnerError('CONFIG_INVALID', `the file ${file}, which should hold a secret, is empty`, { details: { file } });
    this.#readAt = now;
    return this.#fromFile;
  }

  toJSON(): string {
    return `[secret from ${this.source}]`;
  }
}
