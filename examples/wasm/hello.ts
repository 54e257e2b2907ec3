/**
 * A function in AssemblyScript: the event in, the answer out.
 *
 *   bpr wasm build examples/wasm/hello.ts --out hello.zip
 *   bpr wasm serve
 *   curl -T hello.zip 'http://127.0.0.1:27288/api/v1/functions/hello?runtime=wasm&handler=handler.wasm'
 *   curl -d '{"name":"Ada"}' http://127.0.0.1:27288/api/v1/functions/hello/invoke
 */

import { jsonField, log, quoted } from 'blueprint';

export function handler(event: ArrayBuffer): ArrayBuffer {
  const name = jsonField(String.UTF8.decode(event), 'name');
  if (name == null) throw new Error('the event has no name');
  log('greeting ' + name);
  return String.UTF8.encode('{"greeting":' + quoted('Hello, ' + name) + '}');
}
