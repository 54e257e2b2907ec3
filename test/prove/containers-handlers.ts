/** Functions for the proof of the gateway: well-behaved ones, and those that attack what they run in. */

import type { Settings } from './containers-gateway.ts';

/** Answers with what it was given, the name under which it runs, and the version of its code. */
export const echo = (version: number, workMs = 0): string => `
  const name = process.env.AWS_LAMBDA_FUNCTION_NAME;
  export const handler = async (event) => {
    ${workMs > 0 ? `await new Promise((resolve) => setTimeout(resolve, ${workMs}));` : ''}
    return { name, version: ${version}, given: event };
  };`;

export interface Attack {
  readonly name: string;
  readonly source: string;
  readonly settings: Settings;
  /** How our own API tells it, and how the Lambda API does. Undefined: the function answers. */
  readonly code: string | undefined;
  readonly errorType: string | undefined;
  /** What the answer says as well. */
  readonly says?: string;
}

const SMALL: Settings = { memory_mb: 128, timeout_ms: 3_000 };
const WAIT_FOR_EVER = 'await new Promise(() => setInterval(() => {}, 1_000));';

export const ATTACKS: readonly Attack[] = [
  {
    name: 'out-of-memory',
    source: 'export const handler = async () => { const kept = []; for (;;) kept.push(Buffer.alloc(8 << 20, 1)); };',
    settings: { ...SMALL, timeout_ms: 20_000 },
    code: 'FUNCTION_OUT_OF_MEMORY',
    errorType: 'Runtime.OutOfMemory',
  },
  {
    name: 'heap-full',
    source: 'export const handler = async () => { const kept = []; for (;;) kept.push({ numbers: new Array(1_000).fill(kept.length) }); };',
    settings: { memory_mb: 256, timeout_ms: 30_000 },
    code: 'FUNCTION_OUT_OF_MEMORY',
    errorType: 'Runtime.OutOfMemory',
  },
  {
    name: 'fork-bomb',
    source: `import { spawn } from 'node:child_process';
      const more = () => { try { spawn('/bin/sh', ['-c', 'while :; do sh -c "sleep 5" & done'], { stdio: 'ignore' }).on('error', () => {}); } catch {} setTimeout(more, 1); };
      export const handler = async () => { more(); ${WAIT_FOR_EVER} };`,
    settings: SMALL,
    code: 'EXECUTOR_TIMEOUT',
    errorType: 'Sandbox.Timedout',
  },
  {
    name: 'endless-loop',
    source: 'export const handler = async () => { for (;;); };',
    settings: SMALL,
    code: 'EXECUTOR_TIMEOUT',
    errorType: 'Sandbox.Timedout',
  },
  {
    name: 'disk-filler',
    source: `import fs from 'node:fs';
      export const handler = async () => { for (let n = 0; ; n += 1) fs.writeFileSync('/tmp/' + n, Buffer.alloc(1 << 20)); };`,
    // What lies in /tmp counts as memory.
    settings: { memory_mb: 1_024, ephemeral_mb: 512, timeout_ms: 30_000 },
    code: 'FUNCTION_FAILED',
    errorType: 'Error',
    says: 'ENOSPC',
  },
  {
    name: 'log-flood',
    source: `import fs from 'node:fs';
      export const handler = async () => {
        const line = Buffer.from('x'.repeat(1_023) + String.fromCharCode(10)), until = Date.now() + 5_000;
        while (Date.now() < until) { try { fs.writeSync(1, line); } catch (error) { if (error.code !== 'EAGAIN') throw error; } }
        return 'flooded';
      };`,
    settings: { ...SMALL, timeout_ms: 20_000 },
    code: undefined,
    errorType: undefined,
    says: 'flooded',
  },
  {
    name: 'endless-line',
    source: `export const handler = async () => { for (let n = 0; n < 256; n += 1) await new Promise((resolve) => process.stdout.write('x'.repeat(64 * 1024), resolve)); return 'written'; };`,
    settings: { ...SMALL, timeout_ms: 20_000 },
    code: undefined,
    errorType: undefined,
    says: 'written',
  },
  {
    name: 'ignores-sigterm',
    source: `for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => {});
      export const handler = async () => { ${WAIT_FOR_EVER} };`,
    settings: SMALL,
    code: 'EXECUTOR_TIMEOUT',
    errorType: 'Sandbox.Timedout',
  },
  {
    name: 'exits',
    source: 'export const handler = async () => process.exit(7);',
    settings: SMALL,
    code: 'FUNCTION_CRASHED',
    errorType: 'Runtime.ExitError',
    says: 'exit status 7',
  },
  {
    name: 'aborts',
    source: 'export const handler = async () => process.abort();',
    settings: SMALL,
    code: 'FUNCTION_CRASHED',
    errorType: 'Runtime.ExitError',
    says: 'abrt',
  },
  {
    name: 'throws',
    source: `export const handler = async () => { throw new TypeError('not today'); };`,
    settings: SMALL,
    code: 'FUNCTION_FAILED',
    errorType: 'TypeError',
    says: 'not today',
  },
  {
    name: 'init-error',
    source: `throw new RangeError('no handler today'); export const handler = 1;`,
    settings: SMALL,
    code: 'FUNCTION_INIT_FAILED',
    errorType: 'RangeError',
    says: 'no handler today',
  },
  {
    name: 'init-hang',
    source: 'for (;;); export const handler = async () => 1;',
    settings: SMALL,
    code: 'FUNCTION_INIT_FAILED',
    errorType: 'Sandbox.Timeout',
  },
  {
    name: 'huge-response',
    source: `export const handler = async () => 'x'.repeat(32 << 20);`,
    settings: { memory_mb: 512, timeout_ms: 20_000 },
    code: 'PAYLOAD_TOO_LARGE',
    errorType: 'Function.ResponseSizeTooLarge',
  },
];
