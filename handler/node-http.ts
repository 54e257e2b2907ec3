/**
 * `node:http` without what an import loads besides: a namespace has every export, so node makes its WebSocket, and for that loads undici.
 * That alone is a third of the start of a handler. From Node 20.16 or 22.3.
 */
export const nodeHttp = () => process.getBuiltinModule('node:http');
