/** The names of entries of a zip archive: what they may be. */

import type { ErrorDetails } from '../errors.ts';
import { RunnerError } from '../errors.ts';

const SEGMENT_BYTES_MAX = 255;
const NAME_BYTES_MAX = 1_024;

export function decodeName(bytes: Uint8Array): string {
  if (bytes.length > NAME_BYTES_MAX) throw invalid(`a name has ${bytes.length} bytes`, { limit: NAME_BYTES_MAX });
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (thrown) {
    throw invalid('a name is not UTF-8', { entry: Buffer.from(bytes).toString('latin1') }, thrown);
  }
}

/** Relative and harmless on every system, or refused. */
export function cleanName(name: string): string {
  const refuse = (why: string): never => {
    throw invalid(why, { entry: name });
  };
  if (/[\u0000-\u001f\u007f]/.test(name)) refuse('a name has control characters');
  if (name.includes('\\')) refuse('a name has a backslash; folders are separated by /');
  if (name.startsWith('/') || /^[a-zA-Z]:/.test(name)) refuse('a name is absolute');
  const segments = name.split('/').filter((segment) => segment !== '' && segment !== '.');
  if (segments.includes('..')) refuse('a name leads out of the package');
  if (segments.some((segment) => Buffer.byteLength(segment) > SEGMENT_BYTES_MAX))
    refuse(`a part of a name is longer than ${SEGMENT_BYTES_MAX} bytes`);
  if (segments.length === 0 && !name.endsWith('/')) refuse('a name is empty');
  return segments.join('/');
}

export function invalid(what: string, details: ErrorDetails = {}, cause?: unknown): RunnerError {
  const where = typeof details['entry'] === 'string' ? ` (${JSON.stringify(details['entry'])})` : '';
  return new RunnerError('PACKAGE_INVALID', `the package cannot be unpacked: ${what}${where}`, { details, cause });
}
