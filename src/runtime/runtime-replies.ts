/** What the Runtime API reads and answers over HTTP. */

import { STATUS_CODES } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import type { ApiCall } from './runtime-api.ts';
import { DRAIN_BYTES_MAX, FAULT_BYTES_MAX, faultOf } from './runtime-fault.ts';
import type { Fault } from './runtime-fault.ts';

const ACCEPTED = '{"status":"OK"}';
const ACCEPTED_HEAD = ['content-type', 'application/json', 'content-length', String(ACCEPTED.length)];

export type Refusal = readonly [status: number, errorType: string, errorMessage: string];

/** Names and values in turn. */
export function headersOf(call: ApiCall): string[] {
  const { contentType, deadline, functionArn, traceId, clientContext } = call.taken();
  const headers = [
    'Content-Type',
    contentType,
    'Content-Length',
    String(call.event.length),
    'Lambda-Runtime-Aws-Request-Id',
    call.requestId,
    'Lambda-Runtime-Deadline-Ms',
    String(deadline),
    'Lambda-Runtime-Invoked-Function-Arn',
    functionArn ?? '',
  ];
  if (traceId) headers.push('Lambda-Runtime-Trace-Id', traceId);
  if (clientContext) headers.push('Lambda-Runtime-Client-Context', clientContext);
  return headers;
}

export function accept(response: ServerResponse): void {
  response.writeHead(202, ACCEPTED_HEAD);
  response.end(ACCEPTED);
}

export const notAllowed = ({ method, url }: IncomingMessage): Refusal => [405, 'MethodNotAllowed', `${url} takes no ${method}`];

export function refuse(request: IncomingMessage, response: ServerResponse, [status, errorType, errorMessage]: Refusal): void {
  if (!response.headersSent) {
    const text = JSON.stringify({ errorMessage, errorType });
    response.writeHead(status, ['content-type', 'application/json', 'content-length', String(Buffer.byteLength(text))]);
    response.end(text);
  }
  let bytes = 0;
  request.on('data', (data: Buffer) => {
    bytes += data.length;
    if (bytes > DRAIN_BYTES_MAX) request.destroy();
  });
  request.resume();
}

/** What is not HTTP, or more than a request may carry. */
export function refuseMalformed(error: { readonly code?: string }, socket: Duplex): void {
  if (!socket.writable) return void socket.destroy();
  const isCut = error.code === 'HPE_INVALID_EOF_STATE';
  const status = error.code === 'HPE_HEADER_OVERFLOW' ? 431 : 400;
  const errorMessage = isCut ? 'the request ended before its body did' : `this is not a request: ${error.code ?? 'malformed'}`;
  return refuseRaw(socket, [status, isCut ? 'TruncatedHTTPRequest' : 'InvalidRequest', errorMessage]);
}

export function refuseRaw(socket: Duplex, [status, errorType, errorMessage]: Refusal): void {
  const text = JSON.stringify({ errorMessage, errorType });
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(text)}\r\nconnection: close\r\n\r\n${text}`,
  );
}

export function readFault(request: IncomingMessage, response: ServerResponse, done: (fault: Fault) => void): void {
  const chunks: Buffer[] = [];
  let bytes = 0;
  request.on('data', (data: Buffer) => {
    bytes += data.length;
    if (bytes <= FAULT_BYTES_MAX) chunks.push(data);
  });
  request.on('end', () => {
    if (bytes > FAULT_BYTES_MAX) {
      return refuse(request, response, [413, 'RequestEntityTooLarge', `the error has more than ${FAULT_BYTES_MAX} bytes`]);
    }
    done(faultOf(headerText(request, 'lambda-runtime-function-error-type'), Buffer.concat(chunks).toString('utf8')));
  });
}

function headerText(request: IncomingMessage, name: string): string {
  const value = request.headers[name];
  return typeof value === 'string' ? value : '';
}

export function trailerFault({ trailers }: IncomingMessage): Fault | undefined {
  const type = trailers['lambda-runtime-function-error-type'];
  const body = trailers['lambda-runtime-function-error-body'];
  if (type === undefined && body === undefined) return undefined;
  return faultOf(type ?? '', Buffer.from(body ?? '', 'base64').toString('utf8'));
}
