import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { ERROR_CODES, RunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { BLUEPRINT, Metadata, TANGLE } from './call.ts';
import type { JobCall, JobResult } from './call.ts';
import {
  decodeRequest,
  decodeResponse,
  encodeError,
  encodeRequest,
  encodeResponse,
  errorFromResponse,
  statusOf,
  WIRE_FORMATS,
} from './wire.ts';
import type { Headers, WireFormat } from './wire.ts';

const CHAIN = {
  [TANGLE.callId]: '7',
  [TANGLE.serviceId]: '9',
  [TANGLE.caller]: `0x${'ab'.repeat(20)}`,
  [BLUEPRINT.paramsCodec]: 'compact',
};
const makeCall = (body: Uint8Array, entries: Record<string, string> = CHAIN): JobCall => ({
  id: 'chain:1:7',
  jobId: 3n,
  body,
  metadata: new Metadata(Object.entries(entries)),
});
const result = (body: Uint8Array, entries: Record<string, string> = {}): JobResult => ({
  body,
  metadata: new Metadata(Object.entries(entries)),
});
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();
const plain = (metadata: Metadata | undefined): Record<string, string> => Object.fromEntries(metadata ?? []);
const JSON_HEADERS = { 'content-type': 'application/json' };
const request = (body: string | Uint8Array, headers: Headers = JSON_HEADERS): ReturnType<typeof decodeRequest> =>
  decodeRequest(headers, typeof body === 'string' ? Buffer.from(body) : body, { newId: () => 'new' });
const reply = (body: string, { status = 200 } = {}): ReturnType<typeof decodeResponse> =>
  decodeResponse({ status, headers: JSON_HEADERS, body: Buffer.from(body) }, makeCall(new Uint8Array()));
const numbers = (bytes: Uint8Array): string => JSON.stringify(Array.from(bytes));

describe.each(WIRE_FORMATS)('the format %s', (format: WireFormat) => {
  it('carries every call to the handler', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 600 }), fc.bigInt({ min: 0n, max: 2n ** 256n - 1n }), (body, jobId) => {
        const call = { ...makeCall(body), jobId };
        const sent = encodeRequest(format, call);
        const { format: seen, call: arrived } = decodeRequest(sent.headers, sent.body);
        expect(seen).toBe(format);
        expect(arrived.jobId).toBe(jobId);
        expect(arrived.id).toBe('chain:1:7');
        expect(Buffer.from(arrived.body).equals(body)).toBe(true);
        expect(plain(arrived.metadata)).toEqual({ ...CHAIN, [BLUEPRINT.callKey]: 'chain:1:7' });
      }),
    );
  });

  it('carries every result back', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 600 }), (body) => {
        const { results } = decodeResponse(encodeResponse(format, [result(body, { 'x-blueprint-note': 'n' })]), makeCall(body));
        expect(results).toHaveLength(1);
        expect(Buffer.from(results[0]?.body ?? '').equals(body)).toBe(true);
        expect(plain(results[0]?.metadata)).toEqual({ 'x-blueprint-note': 'n', [TANGLE.callId]: '7', [TANGLE.serviceId]: '9' });
      }),
    );
  });

  it('tells no result from an empty one', () => {
    const call = makeCall(new Uint8Array());
    expect(decodeResponse(encodeResponse(format, []), call).results).toEqual([]);
    const [empty] = decodeResponse(encodeResponse(format, [result(new Uint8Array())]), call).results;
    expect(empty?.body.length).toBe(0);
  });

  it('carries only the answering result', () => {
    const sent = encodeResponse(format, [result(Uint8Array.of(1)), result(Uint8Array.of(2))]);
    const { results } = decodeResponse(sent, makeCall(new Uint8Array()));
    expect(results.map((each) => [...each.body])).toEqual([[1]]);
  });

  it('carries metadata of any name and text, and what must not be logged', () => {
    const call = makeCall(Uint8Array.of(1), {});
    call.metadata
      .set('own name', 'zażółć\r\nx-injected: 1')
      .set('x-blueprint-key', ' spaced ')
      .set('x-tangle-secret', 'hush', { sensitive: true });
    const sent = encodeRequest(format, { ...call, id: 'id with\nnewline' });
    for (const value of Object.values(sent.headers)) expect(value).toMatch(/^[\x21-\x7e][\x20-\x7e]*$/);
    const { call: arrived } = decodeRequest(sent.headers, sent.body);
    expect(arrived.id).toBe('id with\nnewline');
    expect(arrived.metadata.get('own name')).toBe('zażółć\r\nx-injected: 1');
    expect(arrived.metadata.get('x-blueprint-key')).toBe(' spaced ');
    expect(arrived.metadata.toJSON()['x-tangle-secret']).toBe('[redacted]');
    expect(arrived.metadata.toJSON()['x-blueprint-key']).toBe(' spaced ');
  });

  it('never lets a handler say whose result it is', () => {
    const forged = { [TANGLE.callId]: '666', [TANGLE.serviceId]: '666' };
    const own = decodeResponse(encodeResponse(format, [result(Uint8Array.of(1), forged)]), makeCall(new Uint8Array()));
    expect(plain(own.results[0]?.metadata)).toEqual({ [TANGLE.callId]: '7', [TANGLE.serviceId]: '9' });
    const none = decodeResponse(encodeResponse(format, [result(Uint8Array.of(1), forged)]), makeCall(new Uint8Array(), {}));
    expect(plain(none.results[0]?.metadata)).toEqual({});
  });

  it('limits the size of bodies', () => {
    const call = makeCall(Buffer.alloc(100));
    const sent = encodeRequest(format, call);
    expect(decodeRequest(sent.headers, sent.body, { bytesMax: sent.body.length }).call.body.length).toBe(100);
    expect(() => decodeRequest(sent.headers, sent.body, { bytesMax: sent.body.length - 1 })).toThrow(
      expect.objectContaining({
        code: 'PAYLOAD_TOO_LARGE',
        details: { what: 'request', bytes: sent.body.length, bytesMax: sent.body.length - 1 },
      }),
    );
    const answer = encodeResponse(format, [result(Buffer.alloc(100))]);
    expect(() => decodeResponse(answer, call, answer.body.length - 1)).toThrow(expect.objectContaining({ code: 'PAYLOAD_TOO_LARGE' }));
  });
});

describe('v1 JSON', () => {
  it('is byte for byte what the blueprint SDK writes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 2_000 }), fc.nat(), (body, jobId) => {
        const { body: sent, headers } = encodeRequest('json', { ...makeCall(body), jobId: BigInt(jobId) });
        expect(text(sent)).toBe(`{"job_id":${jobId},"args":${numbers(body)}}`);
        expect(headers['content-type']).toBe('application/json');
        expect(text(encodeResponse('json', [result(body)]).body)).toBe(`{"result":${numbers(body)}}`);
      }),
    );
    expect(text(encodeRequest('json', { ...makeCall(new Uint8Array()), jobId: 2n ** 53n }).body)).toBe(
      '{"job_id":"9007199254740992","args":[]}',
    );
    const all = Uint8Array.from({ length: 256 }, (_, byte) => byte);
    expect(text(encodeRequest('json', makeCall(all)).body)).toBe(`{"job_id":3,"args":${numbers(all)}}`);
    expect(text(encodeResponse('json', []).body)).toBe('{"result":null}');
  });

  it.each([
    ['any white space', ' {\n"job_id" :\t5 ,\r\n "args" : [ 1 ,\n2,255 ] } '],
    ['keys in any order', '{"args":[1,2,255],"job_id":5}'],
    ['unknown keys', '{"version":"1","flag":true,"none":null,"job_id":5,"more":-1.5e3,"deep":{"args":[9]},"args":[1,2,255]}'],
    ['simple unknown keys', '{"version":"1","flag":false,"none":null,"other":[3],"job_id":5,"args":[1,2,255]}'],
    ['escaped keys', '{"job\\u005fid":5,"\\u0061rgs":[1,2,255]}'],
    ['the last of repeated keys', '{"args":[7],"job_id":1,"job_id":5,"args":[1,2,255]}'],
    ['a job id as text', '{"job_id":"5","args":[1,2,255]}'],
    ['integers in another notation', '{"job_id":5,"args":[1.0,0.2e1,255]}'],
  ])('takes %s', (_, body) => {
    const { call, format } = request(body);
    expect(format).toBe('json');
    expect(call.jobId).toBe(5n);
    expect([...call.body]).toEqual([1, 2, 255]);
    expect(call.id).toBe('new');
  });

  it.each(['256', '-1', '1.5', '1e9', '01', '+1', '0x1', '1,', ',1', '1 2', '"1"', 'null', 'true', '[1]', '{}', '1000', 'NaN', ''])(
    'refuses %j as a byte',
    (item) => {
      const empty = item === '';
      const outcome = (): unknown => request(`{"job_id":0,"args":[5,${item}]}`);
      expect(outcome).toThrow(expect.objectContaining({ code: 'WIRE_MALFORMED' }));
      if (!empty) expect(() => reply(`{"result":[${item}]}`)).toThrow(expect.objectContaining({ code: 'EXECUTOR_RESPONSE_INVALID' }));
    },
  );

  it.each([
    ['nothing', ''],
    ['no JSON', 'hello'],
    ['an array', '[1,2]'],
    ['null', 'null'],
    ['a number', '5'],
    ['half of an object', '{"job_id":0,"args":[1,2'],
    ['more than one object', '{"job_id":0,"args":[1]}{"job_id":0}'],
    ['no args', '{"job_id":0}'],
    ['args as text', '{"job_id":0,"args":"0102"}'],
    ['args as an object', '{"job_id":0,"args":{"0":1}}'],
    ['no job id', '{"args":[1]}'],
    ['a fraction as job id', '{"job_id":1.5,"args":[1]}'],
    ['an imprecise job id', '{"job_id":1e300,"args":[1]}'],
    ['an array as job id', '{"job_id":[1],"args":[1]}'],
    ['a byte order mark', '\ufeff{"job_id":0,"args":[1]}'],
  ])('refuses %s', (_, body) => {
    expect(() => request(body)).toThrow(expect.objectContaining({ code: 'WIRE_MALFORMED' }));
  });

  it.each(['-1', '"x"', '""', `"${2n ** 256n}"`, `${2n ** 256n}`])('refuses %s as a job id', (jobId) => {
    expect(() => request(`{"job_id":${jobId},"args":[]}`)).toThrow(expect.objectContaining({ code: 'JOB_ID_INVALID' }));
  });

  it('decides like JSON.parse about whatever looks like a request', () => {
    const piece = fc.constantFrom(
      '{',
      '}',
      '[',
      ']',
      ',',
      ':',
      '"',
      '"args"',
      '"job_id"',
      '"x"',
      '0',
      '1',
      '25',
      '255',
      '256',
      '-',
      '.',
      'e',
      ' ',
      '\n',
      '\\',
      'null',
      'true',
      'false',
      'tru',
      '\u0000',
      'é',
    );
    const near = fc.array(piece, { maxLength: 12 }).map((pieces) => pieces.join(''));
    const body = fc.oneof(
      near,
      near.map((value) => `{"job_id":1,"args":${value}}`),
      near.map((value) => `{"job_id":1,"args":[${value}]}`),
      near.map((value) => `{"job_id":1,${value}"args":[1]}`),
      fc.array(fc.nat(300)).map((items) => `{"job_id":1,"args":[${items.join(', ')}]}`),
    );
    fc.assert(
      fc.property(body, (sent) => {
        let expected: readonly number[] | undefined;
        try {
          const { job_id: jobId, args } = JSON.parse(sent) as { job_id: unknown; args: unknown };
          if (jobId === 1 && Array.isArray(args) && args.every((item) => Number.isInteger(item) && item >= 0 && item <= 255))
            expected = args as number[];
        } catch {
          expected = undefined;
        }
        let seen: readonly number[] | undefined;
        try {
          const { call } = request(sent);
          if (call.jobId === 1n) seen = [...call.body];
        } catch (error) {
          expect(['WIRE_MALFORMED', 'JOB_ID_INVALID']).toContain((error as RunnerError).code);
        }
        expect(seen).toEqual(expected?.map((item) => item + 0));
      }),
      { numRuns: 3_000 },
    );
  });

  it('survives arbitrary bytes, in requests and in responses', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 60 }),
        fc.constantFrom('', '{"job_id":0,"args":[', '{"result":['),
        fc.integer({ min: 100, max: 599 }),
        (tail, head, status) => {
          const body = Buffer.concat([Buffer.from(head), tail]);
          for (const run of [
            () => decodeRequest(JSON_HEADERS, body),
            () => decodeResponse({ status, headers: JSON_HEADERS, body }, makeCall(body)),
          ]) {
            try {
              run();
            } catch (error) {
              expect(ERROR_CODES).toHaveProperty((error as RunnerError).code);
            }
          }
        },
      ),
      { numRuns: 1_000 },
    );
  });

  it('survives deep nesting', () => {
    expect(() => request(`{"job_id":0,"args":${'['.repeat(200_000)}`)).toThrow(expect.objectContaining({ code: 'WIRE_MALFORMED' }));
  });

  it('takes the reply of the platform specification', () => {
    const { results, report } = reply('{"job_id":3,"result":[25,0,255],"success":true,"execution_ms":45,"memory_used_mb":128}');
    expect([...(results[0]?.body ?? [])]).toEqual([25, 0, 255]);
    expect(report).toEqual({ executionMs: 45, memoryUsedMb: 128 });
    expect(reply('{"result":[1],"error":null,"execution_ms":1.5}').report).toEqual({ executionMs: 1.5 });
    expect(reply('{"result":[1],"execution_ms":-1,"memory_used_mb":"x"}').report).toBeUndefined();
  });

  it.each([
    ['an answer for another job', '{"job_id":4,"result":[1]}', 'it answers job 4, not job 3'],
    ['no result', '{"ok":true}', 'there is neither result nor result_base64'],
    ['a result as text', '{"result":"x"}', 'the bytes are not an array'],
    ['a page', '<html>', 'the 6 bytes are not JSON (content type application/json)'],
    ['nothing', '', 'the 0 bytes are not JSON'],
    ['a job id that is none', '{"job_id":{},"result":[1]}', 'job_id is not an integer'],
  ])('refuses %s as a response', (_, body, reason) => {
    expect(() => reply(body)).toThrow(
      expect.objectContaining({
        code: 'EXECUTOR_RESPONSE_INVALID',
        message: expect.stringContaining(reason),
        details: { call: 'chain:1:7', jobId: '3' },
      }),
    );
  });

  it('reads the failure that a reply with success false reports', () => {
    expect(() => reply('{"job_id":3,"result":[],"success":false,"error":"Function crashed"}')).toThrow(
      expect.objectContaining({ code: 'JOB_FAILED', message: 'Function crashed', retry: 'idempotent' }),
    );
    expect(() => reply('{"success":false}')).toThrow(
      expect.objectContaining({ code: 'JOB_FAILED', message: 'the handler reported a failure without a reason' }),
    );
    expect(() => reply('{"job_id":3,"result":[],"success":false,"error":"Function timeout after 300s"}', { status: 500 })).toThrow(
      expect.objectContaining({ code: 'JOB_FAILED', message: 'the platform answered with status 500: Function timeout after 300s' }),
    );
  });
});

describe('v2 octets', () => {
  it('is the bytes themselves, without a copy', () => {
    const body = Uint8Array.of(1, 2, 3);
    const sent = encodeRequest('octets', makeCall(body));
    expect(sent.body).toBe(body);
    expect(sent.headers).toEqual({
      ...CHAIN,
      'content-type': 'application/octet-stream',
      [BLUEPRINT.callKey]: 'chain:1:7',
      'x-blueprint-job-id': '3',
    });
    expect(decodeRequest(sent.headers, body).call.body).toBe(body);
  });

  it('says no result with status 204', () => {
    expect(encodeResponse('octets', [])).toEqual({ status: 204, headers: {}, body: new Uint8Array() });
  });

  it('takes a job id from its path instead of the header', () => {
    const headers = { 'content-type': 'Application/Octet-Stream; charset=binary' };
    expect(decodeRequest(headers, Uint8Array.of(1), { jobId: '12' }).call.jobId).toBe(12n);
    expect(() => decodeRequest(headers, Uint8Array.of(1))).toThrow(
      expect.objectContaining({ code: 'WIRE_MALFORMED', message: expect.stringContaining('the job id is missing') }),
    );
  });

  it('leaves headers alone that are no metadata', () => {
    const { call } = request(Uint8Array.of(1), {
      'content-type': 'application/octet-stream',
      'x-blueprint-job-id': '1',
      'x-blueprint-metadata': 'not base64 JSON',
      'x-blueprint-sensitive': 'neither',
      'x-blueprint-wire': 'v2',
      'x-tangle-call-id': '5',
      'x-tangle-many': ['a', 'b'],
      'x-tangle-': 'x',
      'X-Tangle-Upper': 'x',
      authorization: 'Bearer x',
      'x-other': 'x',
    });
    expect(plain(call.metadata)).toEqual({ 'x-tangle-call-id': '5', 'x-tangle-many': 'a, b' });
  });
});

describe('base64 JSON', () => {
  it('has the documented shape', () => {
    const sent = encodeRequest('base64', makeCall(Uint8Array.of(1, 2, 255)));
    expect(sent.headers).toEqual(JSON_HEADERS);
    expect(JSON.parse(text(sent.body))).toEqual({
      job_id: 3,
      args_base64: 'AQL/',
      metadata: { ...CHAIN, [BLUEPRINT.callKey]: 'chain:1:7' },
    });
    expect(JSON.parse(text(encodeResponse('base64', [result(Uint8Array.of(1), { a: 'b' })]).body))).toEqual({
      result_base64: 'AQ==',
      metadata: { a: 'b' },
    });
    expect(text(encodeResponse('base64', []).body)).toBe('{"result_base64":null}');
  });

  it('refuses metadata that is a number in a response', () => {
    expect(() => reply('{"result_base64":"","metadata":5}')).toThrow(expect.objectContaining({ code: 'EXECUTOR_RESPONSE_INVALID' }));
  });

  it('needs no metadata', () => {
    const { call, format } = request('{"args_base64":"AQL/","job_id":3}');
    expect(format).toBe('base64');
    expect([...call.body]).toEqual([1, 2, 255]);
    expect(call.id).toBe('new');
    expect(reply('{"result_base64":"AQ=="}').results).toHaveLength(1);
  });

  it.each([
    ['half a group', '{"job_id":0,"args_base64":"AQ="}'],
    ['foreign letters', '{"job_id":0,"args_base64":"AQ!="}'],
    ['white space', '{"job_id":0,"args_base64":"AQ L/A=="}'],
    ['padding in the middle', '{"job_id":0,"args_base64":"AQ==AQ=="}'],
    ['nothing but padding', '{"job_id":0,"args_base64":"===="}'],
    ['letters that are no ASCII', '{"job_id":0,"args_base64":"AQLé"}'],
    ['numbers', '{"job_id":0,"args_base64":[1]}'],
    ['metadata as a list', '{"job_id":0,"args_base64":"","metadata":[]}'],
    ['metadata of numbers', '{"job_id":0,"args_base64":"","metadata":{"a":1}}'],
    ['metadata null', '{"job_id":0,"args_base64":"","metadata":null}'],
  ])('refuses %s', (_, body) => {
    expect(() => request(body)).toThrow(expect.objectContaining({ code: 'WIRE_MALFORMED' }));
    expect(() => reply(body.replace('args_', 'result_').replace('"job_id":0,', ''))).toThrow(
      expect.objectContaining({ code: 'EXECUTOR_RESPONSE_INVALID' }),
    );
  });

  it('is not confused by metadata with unusual names', () => {
    const { call } = request('{"job_id":0,"args_base64":"","metadata":{"__proto__":"x","constructor":"y"},"__proto__":{"job_id":5}}');
    expect(plain(call.metadata)).toMatchObject({ constructor: 'y' });
    expect(call.metadata.get('__proto__')).toBe('x');
    expect(call.jobId).toBe(0n);
  });
});

describe('a request', () => {
  it.each([
    'application/json',
    'application/json; charset=utf-8',
    'APPLICATION/JSON',
    'text/json',
    'application/cloudevents+json',
    undefined,
  ])('of type %s is JSON', (type) => {
    expect(request('{"job_id":0,"args":[1]}', type === undefined ? {} : { 'content-type': type }).format).toBe('json');
  });

  it.each(['application/x-www-form-urlencoded', 'text/plain', 'multipart/form-data'])('of type %s is refused', (type) => {
    expect(() => request('{"job_id":0,"args":[1]}', { 'content-type': type })).toThrow(
      expect.objectContaining({
        code: 'WIRE_MALFORMED',
        message: expect.stringContaining(`content type ${type} is not understood; send application/json`),
      }),
    );
  });

  it('may not contradict the job id of its path', () => {
    const body = Buffer.from('{"job_id":1,"args":[]}');
    expect(decodeRequest(JSON_HEADERS, body, { jobId: 1 }).call.jobId).toBe(1n);
    expect(() => decodeRequest(JSON_HEADERS, body, { jobId: 2 })).toThrow(
      expect.objectContaining({ code: 'WIRE_MALFORMED', message: expect.stringContaining('the request says job 1, its path says job 2') }),
    );
    expect(decodeRequest(JSON_HEADERS, Buffer.from('{"args":[]}'), { jobId: '7' }).call.jobId).toBe(7n);
  });

  it('that brings no id gets a new one each time', () => {
    const body = Buffer.from('{"job_id":1,"args":[]}');
    const [first, second] = [decodeRequest(JSON_HEADERS, body), decodeRequest(JSON_HEADERS, body)];
    expect(first.call.id).toMatch(/^[\da-f-]{36}$/);
    expect(first.call.id).not.toBe(second.call.id);
  });
});

describe('errors on the wire', () => {
  it('are read from a body alone where a platform has no status', () => {
    const { body } = encodeError(new RunnerError('JOB_ARGS_INVALID', 'bad arguments', { details: { job: 'square' } }));
    expect(() => reply(text(body))).toThrow(
      expect.objectContaining({
        code: 'JOB_ARGS_INVALID',
        message: 'bad arguments',
        retry: 'never',
        details: { job: 'square', status: 200 },
      }),
    );
    expect(() => reply('{"error":"what is this"}')).toThrow(
      expect.objectContaining({ code: 'EXECUTOR_RESPONSE_INVALID', message: expect.stringContaining('what is this') }),
    );
  });

  const handlerCodes = [
    'JOB_UNKNOWN',
    'JOB_ARGS_INVALID',
    'JOB_RESULT_INVALID',
    'JOB_REJECTED',
    'JOB_FAILED',
    'JOB_ID_INVALID',
    'WIRE_MALFORMED',
    'PAYLOAD_TOO_LARGE',
    'EXECUTOR_TIMEOUT',
    'EXECUTOR_THROTTLED',
    'EXECUTOR_UNAVAILABLE',
    'QUEUE_FULL',
    'ABORTED',
    'EXECUTOR_UNAUTHORIZED',
  ] as const;

  it.each(handlerCodes)('%s arrives as itself', (code) => {
    const sent = encodeError(
      new RunnerError(code, 'what happened', { details: { job: 'square', bytes: 5n, secretKey: 'x', list: [1, 2n], none: undefined } }),
    );
    expect(sent.status).toBe(statusOf(code));
    expect(sent.headers['content-type']).toBe('application/json');
    expect(JSON.parse(text(sent.body))).toEqual({ error: 'what happened', code, details: { job: 'square', bytes: '5', list: '[1,"2"]' } });
    const arrived = errorFromResponse(sent.status, sent.body, sent.headers);
    expect(arrived).toMatchObject({
      code,
      message: 'what happened',
      retry: ERROR_CODES[code].retry,
      details: { job: 'square', status: sent.status },
    });
    expect(() => decodeResponse(sent, makeCall(new Uint8Array()))).toThrow(expect.objectContaining({ code }));
  });

  it('have a status of 4xx or 5xx for every code', () => {
    for (const code of Object.keys(ERROR_CODES) as ErrorCode[]) {
      expect(statusOf(code)).toBeGreaterThanOrEqual(400);
      expect(statusOf(code)).toBeLessThan(600);
    }
  });

  it('keep causes, stacks and secrets to themselves', () => {
    const sent = text(
      encodeError(
        new RunnerError('JOB_FAILED', 'no', {
          cause: new Error('inner'),
          details: { token: 'a', apiKey: 'b', Authorization: 'c', password: 'd', privateKey: 'e' },
        }),
      ).body,
    );
    expect(sent).toBe('{"error":"no","code":"JOB_FAILED","details":{}}');
    expect(text(encodeError(new Error('plain')).body)).toBe('{"error":"plain","code":"INTERNAL","details":{}}');
  });

  it('are cut to a bounded size', () => {
    const sent = encodeError(
      new RunnerError('JOB_FAILED', 'x'.repeat(100_000), {
        details: { a: 'y'.repeat(100_000), b: 'z'.repeat(3_000), c: 'w'.repeat(3_000) },
      }),
    );
    expect(sent.body.length).toBeLessThan(8_000);
    expect(
      errorFromResponse(500, Buffer.from(JSON.stringify({ code: 'JOB_FAILED', error: 'x'.repeat(100_000) }))).message.length,
    ).toBeLessThan(3_000);
  });

  it.each(['LEDGER_FULL', 'RESULT_REJECTED', 'EXECUTOR_UNREACHABLE', 'TX_UNDERFUNDED', 'toString'])(
    "%s is not a handler's to say",
    (code) => {
      expect(errorFromResponse(500, Buffer.from(JSON.stringify({ error: 'x', code })))).toMatchObject({
        code: 'JOB_FAILED',
        retry: 'idempotent',
        details: { platformCode: code },
      });
    },
  );

  it.each([
    [400, 'WIRE_MALFORMED', 'never'],
    [401, 'EXECUTOR_UNAUTHORIZED', 'never'],
    [403, 'EXECUTOR_UNAUTHORIZED', 'never'],
    [404, 'EXECUTOR_NOT_FOUND', 'never'],
    [408, 'EXECUTOR_TIMEOUT', 'idempotent'],
    [409, 'FUNCTION_EXISTS', 'never'],
    [413, 'PAYLOAD_TOO_LARGE', 'never'],
    [429, 'EXECUTOR_THROTTLED', 'safe'],
    [500, 'EXECUTOR_RESPONSE_INVALID', 'idempotent'],
    [502, 'EXECUTOR_CONNECTION_LOST', 'idempotent'],
    [503, 'EXECUTOR_UNAVAILABLE', 'idempotent'],
    [504, 'EXECUTOR_TIMEOUT', 'idempotent'],
    [302, 'EXECUTOR_RESPONSE_INVALID', 'idempotent'],
    [418, 'EXECUTOR_RESPONSE_INVALID', 'idempotent'],
  ] as const)('status %d alone is %s, retry %s', (status, code, retry) => {
    expect(errorFromResponse(status, Buffer.from('<html>oops</html>'))).toMatchObject({
      code,
      retry,
      details: { status, body: '<html>oops</html>' },
    });
    expect(() => decodeResponse({ status, headers: {}, body: new Uint8Array() }, makeCall(new Uint8Array()))).toThrow(
      expect.objectContaining({ code }),
    );
  });

  it('know that the handler was not reached when a platform says when to come again', () => {
    expect(errorFromResponse(503, new Uint8Array(), { 'retry-after': '2' })).toMatchObject({
      code: 'EXECUTOR_UNAVAILABLE',
      retry: 'safe',
      details: { retryAfterMs: 2_000 },
    });
    expect(errorFromResponse(429, new Uint8Array(), { 'retry-after': 'Wed, 21 Oct 2026 07:28:00 GMT' }).details).not.toHaveProperty(
      'retryAfterMs',
    );
  });

  it('read the form of the platform specification', () => {
    const body = {
      error: 'Function execution timed out after 300 seconds',
      code: 'TIMEOUT',
      details: { function_id: 'job0', timeout_secs: 300 },
    };
    expect(errorFromResponse(500, Buffer.from(JSON.stringify(body)))).toMatchObject({
      code: 'EXECUTOR_TIMEOUT',
      message: 'the platform answered with status 500: Function execution timed out after 300 seconds',
      details: { function_id: 'job0', timeout_secs: 300, status: 500, platformCode: 'TIMEOUT' },
    });
  });
});
