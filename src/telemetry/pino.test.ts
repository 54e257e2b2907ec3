import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RunnerError } from '../errors.ts';
import { createLogger } from './pino.ts';
import type { LoggerOptions } from './pino.ts';
import { createRedactor, redactText, redactUrl } from './redact.ts';
import type { LogFields, Logger } from './telemetry.ts';

interface Capture {
  readonly log: Logger;
  readonly lines: string[];
  last(): Record<string, unknown>;
}

async function capture(options: Omit<LoggerOptions, 'destination'> & { isTTY?: boolean } = {}): Promise<Capture> {
  const lines: string[] = [];
  const { isTTY, ...rest } = options;
  const destination = { write: (line: string) => lines.push(line), ...(isTTY !== undefined && { isTTY }) };
  const log = await createLogger({ now: () => 1_700_000_000_250, ...rest, destination });
  return { log, lines, last: () => JSON.parse(lines.at(-1) ?? 'null') as Record<string, unknown> };
}

describe('JSON lines', () => {
  it('hold level, time, message and fields, one object per line', async () => {
    const { log, lines } = await capture();
    log.info('call executed', { callId: 7n, ok: true });
    log.error('second');
    expect(lines).toEqual([
      '{"level":"info","time":"2023-11-14T22:13:20.250Z","callId":"7","ok":true,"msg":"call executed"}\n',
      '{"level":"error","time":"2023-11-14T22:13:20.250Z","msg":"second"}\n',
    ]);
  });

  it('leave out what is below the level, and all of it when silent', async () => {
    const info = await capture({ level: 'warn' });
    info.log.debug('a');
    info.log.info('b');
    info.log.warn('c');
    expect(info.lines).toHaveLength(1);
    const silent = await capture({ level: 'silent' });
    silent.log.error('d');
    expect(silent.lines).toEqual([]);
  });

  it('carry the fields of every child; those of the line win and no name stands twice', async () => {
    const { log, lines, last } = await capture();
    log.child({ service: 1n, token: 'hunter2hunter2' }).child({ job: 3 }).info('x', { job: 4 });
    expect(last()).toMatchObject({ service: '1', token: '[redacted]', job: 4 });
    expect(lines[0]?.match(/"job"/g)).toHaveLength(1);
  });

  it('keep their own level, time and message when fields have those names', async () => {
    const { log, lines, last } = await capture();
    log.info('real', { level: 'high', time: 5, msg: 'other' });
    expect(last()).toMatchObject({ level: 'info', msg: 'real', level_: 'high', time_: 5, msg_: 'other' });
    expect(lines[0]?.match(/"level"/g)).toHaveLength(1);
  });

  it('are valid JSON for any fields whatever', async () => {
    const { log, lines, last } = await capture();
    fc.assert(
      fc.property(
        fc.string(),
        fc.dictionary(fc.string(), fc.anything({ withBigInt: true, withDate: true, withMap: true, withSet: true, withTypedArray: true })),
        (message, fields) => {
          lines.length = 0;
          log.info(message, fields);
          expect(lines).toHaveLength(1);
          expect(lines[0]?.indexOf('\n')).toBe((lines[0]?.length ?? 0) - 1);
          expect(last()['level']).toBe('info');
        },
      ),
    );
  });
});

describe('lines for people', () => {
  it('are chosen on a terminal', async () => {
    const { log, lines } = await capture({ isTTY: true });
    log.warn('slow call', { callId: 7n, note: 'two words' });
    expect(lines).toEqual(['22:13:20.250 \u001b[33mwarn \u001b[0m slow call callId=7 note="two words"\n']);
  });

  it('cannot be forged or coloured by a field or message', async () => {
    const { log, lines } = await capture({ format: 'text' });
    log.info('a\nerror fake', { note: '\u001b[2J\n22:13 fake', ['n\nm']: 1 });
    expect(lines[0]?.slice(0, -1)).not.toMatch(/[\u0000-\u001f]/);
    expect(lines[0]).toContain('a\\u000aerror fake');
  });
});

describe('values', () => {
  const redact = createRedactor();

  it('shows bytes as hex and cuts long ones', () => {
    expect(redact(new Uint8Array([1, 171]))).toBe('0x01ab');
    expect(redact(Buffer.alloc(65, 255))).toBe(`0x${'ff'.repeat(64)}... (65 bytes)`);
    expect(redact(new Uint8Array([9, 9, 1, 2]).subarray(2))).toBe('0x0102');
  });

  it('shows bigints in decimal, dates in ISO form, numbers that JSON cannot carry as text', () => {
    expect(redact({ a: 2n ** 70n, b: new Date(0), c: Number.NaN, d: -Infinity, e: undefined })).toEqual({
      a: '1180591620717411303424',
      b: '1970-01-01T00:00:00.000Z',
      c: 'NaN',
      d: '-Infinity',
    });
  });

  it('cuts long text, long lists, deep trees and circles', () => {
    expect(redact('x '.repeat(2000))).toMatch(/^(?:x ){1024}\.\.\. \(4000 characters\)$/);
    expect(redact(Array.from({ length: 70 }, () => 1))).toHaveLength(65);
    const circle: Record<string, unknown> = {};
    circle['self'] = circle;
    expect(redact(circle)).toEqual({ self: '[circular]' });
    let deep: unknown = 1;
    for (let depth = 0; depth < 20; depth++) deep = { deep };
    expect(JSON.stringify(redact(deep))).toContain('[too deep]');
  });

  it('shows an object twice when it is not a circle', () => {
    const shared = { a: 1 };
    expect(redact({ x: shared, y: shared })).toEqual({ x: { a: 1 }, y: { a: 1 } });
  });

  it('survives getters and toJSON that throw', () => {
    const hostile = {
      get bad(): never {
        throw new Error('no');
      },
    };
    expect(redact({ hostile, fine: 1 })).toEqual({ hostile: '[unreadable]', fine: 1 });
  });

  it('shows a RunnerError with code, retry, details and the chain of causes; the stack once', () => {
    const cause = new RunnerError('RPC_UNREACHABLE', 'no answer', { cause: new TypeError('fetch failed'), details: { attempts: 3n } });
    const shown = redact({ error: new RunnerError('RESULT_REJECTED', 'gone', { cause }) });
    expect(shown).toMatchObject({
      error: {
        name: 'RunnerError',
        code: 'RESULT_REJECTED',
        message: 'gone',
        retry: 'never',
        cause: {
          code: 'RPC_UNREACHABLE',
          retry: 'safe',
          details: { attempts: '3' },
          cause: { name: 'TypeError', message: 'fetch failed' },
        },
      },
    });
    expect(JSON.stringify(shown).match(/"stack"/g)).toHaveLength(1);
  });
});

describe('secrets by name', () => {
  const redact = createRedactor({ names: ['pin_code'] });
  const secretNames = [
    'authorization',
    'Authorization',
    'proxy-authorization',
    'privateKey',
    'private_key',
    'PRIVATE_KEY',
    'operatorPrivateKeyHex',
    'password',
    'dbPasswd',
    'passphrase',
    'apiKey',
    'api_key',
    'X-API-Key',
    'APIKEY',
    'secret',
    'clientSecret',
    'secretAccessKey',
    'mnemonic',
    'seedPhrase',
    'cookie',
    'set-cookie',
    'accessToken',
    'token',
    'refresh_token',
    'sessionTokens',
    'bearer',
    'jwt',
    'auth',
    'credentials',
    'x-functions-key',
    'connectionString',
    'authTokenValue',
    'pinCode',
    'PIN-CODE',
  ];
  const harmlessNames = [
    'tokenCount',
    'tokenId',
    'tokenAddress',
    'tokenSymbol',
    'tokenPrice',
    'maxTokensPerCall',
    'secretName',
    'secretRef',
    'secretArn',
    'passwordFile',
    'apiKeyId',
    'authority',
    'author',
    'authenticated',
    'publicKey',
    'key',
    'callKey',
    'idempotencyKey',
    'cookieCount',
    'signature',
    'keyboard',
    'description',
    'passed',
    'inputs',
    'monkey',
    'ticketCount',
    'jobId',
    'transactionHash',
    'privateKeyPath',
    'secretVersion',
  ];

  it.each(secretNames)('%s', (name) => {
    expect(redact({ [name]: 'correct horse battery' })).toEqual({ [name]: '[redacted]' });
    expect(redact({ [name]: ['correct horse'] })).toSatisfy((shown) => !JSON.stringify(shown).includes('horse'));
    expect(redact({ [name]: new Uint8Array(32).fill(7) })).toEqual({ [name]: '[redacted]' });
  });

  it.each(harmlessNames)('leaves %s alone', (name) => {
    expect(redact({ [name]: 'correct horse battery' })).toEqual({ [name]: 'correct horse battery' });
  });

  it('counts and contracts under token names stay', () => {
    const token = '0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48';
    expect(redact({ tokens: 300, token, auth: { type: 'bearer', value: 'abc' } })).toEqual({
      tokens: 300,
      token,
      auth: { type: 'bearer', value: '[redacted]' },
    });
    expect(redact({ token: { symbol: 'USDC', decimals: 6 } })).toEqual({ token: { symbol: 'USDC', decimals: 6 } });
  });

  it('numbers and records under strong names go', () => {
    expect(redact({ password: 123456, privateKey: { raw: 1n }, secret: new Map([['a', 'b']]) })).toEqual({
      password: '[redacted]',
      privateKey: '[redacted]',
      secret: '[redacted]',
    });
  });

  it('whether a secret is set may be told', () => {
    expect(redact({ password: true, apiKey: null, secret: undefined })).toEqual({ password: true, apiKey: null });
  });

  it('a secret never gets out, whatever the depth, container and other fields', async () => {
    const { log, lines } = await capture();
    const secret = 'Sup3r-s3cret/value';
    const wrap = fc.constantFrom<(inner: unknown) => unknown>(
      (inner) => ({ inner }),
      (inner) => [inner, 1],
      (inner) => new Map([['entry', inner]]),
      (inner) => new Set([inner]),
      (inner) => ({ toJSON: () => inner }),
      (inner) => new RunnerError('CONFIG_INVALID', 'bad', { details: { inner } }),
      (inner) => new Error('outer', { cause: inner }),
      (inner) => new AggregateError([inner], 'many'),
    );
    const place = fc.record({
      name: fc.constantFrom(...secretNames.filter((name) => !/pin/i.test(name))),
      wraps: fc.array(wrap, { maxLength: 10 }),
      list: fc.boolean(),
      child: fc.boolean(),
    });
    fc.assert(
      fc.property(place, fc.dictionary(fc.string(), fc.anything()), ({ name, wraps, list, child }, others) => {
        lines.length = 0;
        let value: unknown = { ...others, [name]: list ? [[secret]] : secret };
        for (const around of wraps) value = around(value);
        const fields = { field: value } satisfies LogFields;
        if (child) log.child(fields).info('x');
        else log.info('x', fields);
        expect(lines.join('')).not.toContain('s3cret');
      }),
      { numRuns: 300 },
    );
  });
});

describe('secrets by form', () => {
  const keys = {
    infura: '0123456789abcdef0123456789abcdef',
    alchemy: 'aBcD3fGh-jKlMn0pQrStUvWx_z123456',
    quicknode: 'f00dfeedf00dfeedf00dfeedf00dfeedf00dfeed',
    uuid: '3f2504e0-4f89-41d3-9a0c-0305e82c3301',
  };

  it.each(Object.entries(keys))('a key of the kind of %s goes from path, query, userinfo and fragment', (_, key) => {
    for (const url of [
      `https://rpc.example/v3/${key}`,
      `wss://rpc.example/${key}/`,
      `https://rpc.example/?x=${key}`,
      `https://${key}@rpc.example/`,
      `https://u:${key}@rpc.example:8545/a`,
      `https://rpc.example/#${key}`,
    ]) {
      expect(redactUrl(url)).not.toContain(key);
      expect(redactUrl(url)).toContain('rpc.example');
      expect(redactText(`request to ${url} failed`)).not.toContain(key);
    }
  });

  it('short secrets go from the query by their name', () => {
    expect(redactUrl('https://fn.example/api/job?code=abc&id=7&X-Amz-Signature=ff&apikey=q')).toBe(
      'https://fn.example/api/job?code=[redacted]&id=7&X-Amz-Signature=[redacted]&apikey=[redacted]',
    );
  });

  it.each([
    'https://api.example/v1/blueprints/7/jobs/3/squaring-v2-with-a-long-slug',
    'https://127.0.0.1:8545/2018-06-01/runtime/invocation/next',
    'https://scan.example/tx/0x5c504ed432cb51138bcf09aa5e8a410dd4a1e204ef84bfed1be16dfba1b22060',
    'https://scan.example/address/0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48?page=2',
    'http://localhost:9000/functions/square?memory_mb=128&name=square',
  ])('leaves %s alone', (url) => {
    expect(redactText(url)).toBe(url);
  });

  it('credentials in free text go', () => {
    const pem = '-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----';
    expect(redactText(`a ${pem} b`)).toBe('a [redacted] b');
    expect(redactText('sent Authorization: Bearer abc123def456ghi')).toBe('sent Authorization: Bearer [redacted]');
    expect(redactText('PASSWORD=hunter2 and {"apiKey":"k1"}')).toBe('PASSWORD=[redacted] and {"apiKey":[redacted]"}');
    expect(redactText(JSON.stringify({ inner: JSON.stringify({ client_secret: 'k1k2' }) }))).not.toContain('k1k2');
    expect(redactText('eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln is it')).toBe('[redacted] is it');
  });

  it('plain sentences stay', () => {
    for (const text of ['Basic authentication is used', 'the token: unknown', 'bearer of news', 'job 7 of service 3 failed after 12 ms'])
      expect(redactText(text)).toBe(text);
  });

  it('messages of errors, keys of maps and URL objects are cleaned too', () => {
    const url = `https://rpc.example/v3/${keys.infura}`;
    const shown = JSON.stringify(
      createRedactor()({ error: new Error(`URL: ${url}`), endpoints: new Map([[url, 1]]), [url]: 2, url: new URL(url) }),
    );
    expect(shown).not.toContain(keys.infura);
    expect(shown.match(/rpc\.example/g)?.length).toBeGreaterThanOrEqual(4);
  });

  it('a cut leaves no half of a key behind', () => {
    const url = `https://rpc.example/v3/${keys.infura}`;
    for (let pad = 0; pad < 80; pad++) expect(redactText(`${'-'.repeat(16_384 - pad)}${url}`)).not.toContain(keys.infura.slice(0, 8));
    for (let pad = 0; pad < 80; pad++) expect(redactText(`${'- '.repeat((2048 - pad) / 2)}${url}`)).not.toContain(keys.infura.slice(0, 8));
  });

  it('takes time in proportion to the text, also for hostile text', () => {
    const hostile = [
      'https://'.repeat(2000),
      'a'.repeat(16_384),
      '-----BEGIN '.repeat(1500),
      'eyJ'.repeat(5000),
      'password '.repeat(1800),
      `bearer ${' '.repeat(16_000)}`,
      'a.'.repeat(8000),
    ];
    for (const text of hostile) {
      const start = performance.now();
      redactText(text);
      expect(performance.now() - start).toBeLessThan(500);
    }
  });
});
