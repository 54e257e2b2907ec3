import { describe, expect, test } from 'vitest';
import { detectAdapter, numberOf } from './detect.ts';
import type { AdapterName, Surroundings } from './detect.ts';

const bare: Surroundings = { env: {}, args: [], isMain: true, isStdinPiped: () => false };

describe('the first row that fits decides', () => {
  const rows: readonly { readonly name: string; readonly seen: Partial<Surroundings>; readonly adapter: AdapterName }[] = [
    { name: 'flag --describe', seen: { args: ['--describe'] }, adapter: 'describe' },
    { name: 'flag --http', seen: { args: ['--http'] }, adapter: 'http' },
    { name: 'flag --stdio', seen: { args: ['--stdio'] }, adapter: 'stdio' },
    { name: 'flag --stdio=lines', seen: { args: ['--stdio=lines'] }, adapter: 'stdio-lines' },
    { name: 'flag --lambda-runtime', seen: { args: ['--lambda-runtime'] }, adapter: 'lambda-runtime' },
    { name: 'a flag before BLUEPRINT_ADAPTER', seen: { args: ['--stdio'], env: { BLUEPRINT_ADAPTER: 'http' } }, adapter: 'stdio' },
    {
      name: 'BLUEPRINT_ADAPTER=http before a Runtime API',
      seen: { env: { BLUEPRINT_ADAPTER: 'http', AWS_LAMBDA_RUNTIME_API: 'x:1' } },
      adapter: 'http',
    },
    { name: 'BLUEPRINT_ADAPTER=stdio before PORT', seen: { env: { BLUEPRINT_ADAPTER: 'stdio', PORT: '80' } }, adapter: 'stdio' },
    { name: 'BLUEPRINT_ADAPTER=stdio-lines', seen: { env: { BLUEPRINT_ADAPTER: 'stdio-lines' } }, adapter: 'stdio-lines' },
    { name: 'BLUEPRINT_ADAPTER=lambda', seen: { env: { BLUEPRINT_ADAPTER: 'lambda' } }, adapter: 'lambda' },
    { name: 'BLUEPRINT_ADAPTER=lambda-runtime', seen: { env: { BLUEPRINT_ADAPTER: 'lambda-runtime' } }, adapter: 'lambda-runtime' },
    { name: 'BLUEPRINT_ADAPTER of an importing program', seen: { isMain: false, env: { BLUEPRINT_ADAPTER: 'http' } }, adapter: 'http' },
    {
      name: 'imported by a managed Lambda runtime',
      seen: { isMain: false, env: { AWS_LAMBDA_RUNTIME_API: 'x:1', _HANDLER: 'handler.handler' } },
      adapter: 'lambda',
    },
    {
      name: 'imported by a program with flags, PORT and a piped stdin',
      seen: { isMain: false, args: ['--http'], env: { PORT: '80' }, isStdinPiped: () => true },
      adapter: 'lambda',
    },
    {
      name: 'started beside a Runtime API',
      seen: { env: { AWS_LAMBDA_RUNTIME_API: 'x:1', _HANDLER: 'handler.handler', PORT: '80' } },
      adapter: 'lambda-runtime',
    },
    { name: 'PORT before a piped stdin', seen: { env: { PORT: '80' }, isStdinPiped: () => true }, adapter: 'http' },
    {
      name: 'BLUEPRINT_SOCKET before a piped stdin',
      seen: { env: { BLUEPRINT_SOCKET: '/run/s' }, isStdinPiped: () => true },
      adapter: 'http',
    },
    {
      name: 'imported by the Node worker of Azure Functions',
      seen: { isMain: false, env: { FUNCTIONS_WORKER_RUNTIME: 'node' } },
      adapter: 'azure',
    },
    {
      name: 'imported by a worker for another language',
      seen: { isMain: false, env: { FUNCTIONS_WORKER_RUNTIME: 'custom' } },
      adapter: 'lambda',
    },
    {
      name: 'started as a custom handler of Azure',
      seen: { env: { FUNCTIONS_CUSTOMHANDLER_PORT: '1' }, isStdinPiped: () => true },
      adapter: 'http',
    },
    { name: 'a piped stdin', seen: { isStdinPiped: () => true }, adapter: 'stdio' },
    { name: 'nothing', seen: {}, adapter: 'http' },
  ];
  test.each(rows)('$name: $adapter', ({ seen, adapter }) => {
    expect(detectAdapter({ ...bare, ...seen })).toBe(adapter);
  });

  test.each([
    ['flag', { args: ['--htpp'] }, /the flag is --htpp; it must be one of --http, --stdio, --stdio=lines, --lambda-runtime, --describe$/],
    ['BLUEPRINT_ADAPTER', { env: { BLUEPRINT_ADAPTER: 'toString' } }, /BLUEPRINT_ADAPTER is toString; it must be one of http, stdio/],
  ])('an unknown %s is refused with the choices', (_, seen, message) => {
    expect(() => detectAdapter({ ...bare, ...seen })).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringMatching(message) }),
    );
  });
});

describe('numbers from the environment', () => {
  const range = { fallback: 5, min: 1, max: 10 };

  test('the value, or the fallback when it is not set', () => {
    expect([numberOf({ N: '10' }, 'N', range), numberOf({}, 'N', range)]).toEqual([10, 5]);
  });

  test.each(['0', '11', '-1', '1.5', '', ' 5', '0x5', '1e1', 'five'])('%j is refused', (text) => {
    expect(() => numberOf({ N: text }, 'N', range)).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID', message: `N is ${JSON.stringify(text)}; it must be a whole number from 1 to 10` }),
    );
  });
});
