import { expectTypeOf, test } from 'vitest';
import type { Answer, GatewayClient, GatewayFunction } from '../../src/gateway/client.ts';

declare const client: GatewayClient;

test('calls are typed by their function', () => {
  expectTypeOf(client.invoke<{ name: string }, string>('hello', { name: 'Ada' })).toEqualTypeOf<Promise<Answer<string>>>();
  // @ts-expect-error the input has a name
  void client.invoke<{ name: string }, string>('hello', { title: 'Ada' });
  expectTypeOf(client.invoke('hello', 1)).resolves.toHaveProperty('output').toEqualTypeOf<unknown>();
});

test('settings and states are closed sets', () => {
  expectTypeOf<GatewayFunction['network']>().toEqualTypeOf<'none' | 'open'>();
  // @ts-expect-error there is no such network
  void client.update('hello', { network: 'some' });
  // @ts-expect-error names are those of the API
  void client.deploy('hello', new Uint8Array(), { memoryMb: 128 });
  // @ts-expect-error there is no such mode
  void client.execute(1, { function: 'hello', mode: 'forked' });
  expectTypeOf(client.connect().events('invocations')).toExtend<AsyncGenerator<{ readonly request_id: string }>>();
  // @ts-expect-error there is no such topic
  void client.connect().events('jobs');
});
