import { expect, it } from 'vitest';
import { traceOfCall } from './call-trace.ts';

const withMetadata = (values: Readonly<Record<string, string>>) => ({ id: 'call-7', metadata: { get: (name: string) => values[name] } });
const OWN = { traceparent: expect.stringMatching(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/) };

it('the trace of a call follows from its id alone', () => {
  const trace = traceOfCall(withMetadata({}));
  expect(trace).toEqual(OWN);
  expect(traceOfCall(withMetadata({ 'x-tangle-block-hash': '0x1' }))).toEqual(trace);
  expect(traceOfCall({ ...withMetadata({}), id: 'call-8' })).not.toEqual(trace);
});

it('who made the call may have begun the trace', () => {
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00';
  expect(traceOfCall(withMetadata({ traceparent, tracestate: 'a=1' }))).toEqual({ traceparent, tracestate: 'a=1' });
  expect(traceOfCall(withMetadata({ traceparent }))).toEqual({ traceparent });
});

it.each(['', 'nonsense', `00-${'0'.repeat(32)}-b7ad6b7169203331-01`, `ff-${'1'.repeat(32)}-b7ad6b7169203331-01`])(
  'a malformed traceparent counts as none: %s',
  (traceparent) => expect(traceOfCall(withMetadata({ traceparent, tracestate: 'a=1' }))).toEqual(traceOfCall(withMetadata({}))),
);
