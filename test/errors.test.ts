import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { ERROR_TEXTS } from '../src/error-texts.ts';
import { ERROR_CODES, RunnerError, isErrorCode, isRunnerError, toRunnerError } from '../src/errors.ts';
import { ERRORS_FILE, errorsDocument } from './scripts/errors-doc.ts';

const codes = Object.keys(ERROR_CODES);
const ROOT = join(import.meta.dirname, '..');

describe('the table of codes', () => {
  it('is what ERRORS.md says; `npm run docs:errors` writes it', () => {
    const document = readFileSync(ERRORS_FILE, 'utf8');
    expect(document).toBe(errorsDocument());
    expect([...document.matchAll(/^\| `([A-Z_]+)`/gm)].map(([, code]) => code)).toEqual(codes);
  });

  it('has every code once, in capitals, with sentences', () => {
    const source = readFileSync(join(ROOT, 'src', 'errors.ts'), 'utf8');
    const declared = [...source.matchAll(/^ {2}([A-Z_]+): (?:at\(\d{3}, [A-Z_]+\)|[A-Z_]+),$/gm)].map(([, code]) => code);
    expect(declared).toEqual(codes);
    expect(new Set(declared).size).toBe(declared.length);
    expect(Object.keys(ERROR_TEXTS)).toEqual(codes);
    for (const { meaning, remedy } of Object.values(ERROR_TEXTS))
      for (const sentence of [meaning, remedy]) expect(sentence).toMatch(/^[A-Z].*\.$/);
  });

  it('has no code that nothing raises', () => {
    const sources = ['src', 'plugins', 'handler'].flatMap((folder) =>
      readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
        .filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts') && !/^error(?:s|-texts)\.ts$/.test(file))
        .map((file) => readFileSync(join(ROOT, folder, file), 'utf8')),
    );
    const text = sources.join('\n');
    expect(codes.filter((code) => !new RegExp(`['"\`]${code}['"\`]`).test(text))).toEqual([]);
  });
});

describe('RunnerError', () => {
  it('takes what another attempt means from the table, unless told', () => {
    expect(new RunnerError('EXECUTOR_UNREACHABLE', 'x')).toMatchObject({
      name: 'RunnerError',
      retry: 'safe',
      retryable: true,
      details: {},
    });
    expect(new RunnerError('EXECUTOR_UNREACHABLE', 'x', { retry: 'never' })).toMatchObject({ retry: 'never', retryable: false });
  });

  it('is recognised when another copy of the package made it', async () => {
    vi.resetModules();
    const copy = await import('../src/errors.ts');
    const error = new copy.RunnerError('NOT_FOUND', 'x');
    expect(error).not.toBeInstanceOf(RunnerError);
    expect(isRunnerError(error)).toBe(true);
    expect(toRunnerError(error)).toBe(error);
  });

  it.each([null, undefined, 'NOT_FOUND', { code: 'NOT_FOUND' }, new Error('NOT_FOUND')])('%s is none', (value) => {
    expect(isRunnerError(value)).toBe(false);
  });

  it('wraps whatever was thrown and keeps it as the cause', () => {
    const cause = new TypeError('bad');
    expect(toRunnerError(cause, 'JOB_FAILED', { job: 1 })).toMatchObject({
      code: 'JOB_FAILED',
      message: 'bad',
      cause,
      details: { job: 1 },
    });
    expect(toRunnerError('text')).toMatchObject({ code: 'INTERNAL', message: 'text' });
  });

  it('knows its codes and no inherited names', () => {
    expect(isErrorCode('NOT_FOUND')).toBe(true);
    for (const value of ['toString', '__proto__', 'nope', 7, null]) expect(isErrorCode(value)).toBe(false);
  });

  it('serialises code, message, retry and details', () => {
    expect(JSON.parse(JSON.stringify(new RunnerError('NOT_FOUND', 'x', { details: { id: 7 } })))).toEqual({
      code: 'NOT_FOUND',
      message: 'x',
      retry: 'never',
      details: { id: 7 },
    });
  });
});
