/** What makes two instances the same. */

import { hash } from 'node:crypto';
import type { FunctionVersion } from './runtime.ts';

/**
 * SHA-256, hex, over everything that an instance can see of its version: equal exactly when instances may be shared. The name and the version
 * number count too: the program reads them in its environment.
 */
export function fingerprintOf(fn: Omit<FunctionVersion, 'fingerprint'>): string {
  const code =
    fn.code.kind === 'folder' ? ['folder', fn.code.sha256] : ['image', fn.code.uri, fn.code.entryPoint ?? null, fn.code.command ?? null];
  const parts = [
    fn.name,
    fn.version,
    code,
    fn.layers.map(({ sha256 }) => sha256),
    fn.runtime,
    fn.handler,
    fn.memoryMb,
    fn.timeoutMs,
    fn.ephemeralMb,
    Object.entries(fn.environment).toSorted(([left], [right]) => (left < right ? -1 : 1)),
    fn.concurrencyPerInstance,
    fn.network,
  ];
  return hash('sha256', JSON.stringify(parts), 'hex');
}
