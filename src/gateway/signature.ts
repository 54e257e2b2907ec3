/** AWS Signature Version 4, checked: https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html */

import { createHmac, hash, timingSafeEqual } from 'node:crypto';
import { RunnerError } from '../errors.ts';

export interface SignedRequest {
  readonly method: string;
  /** As it was sent, without the query. */
  readonly path: string;
  /** As it was sent, without the question mark. */
  readonly query: string;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string | undefined>>;
  readonly body: Uint8Array;
}

export interface SignatureClaim {
  readonly accessKeyId: string;
  readonly date: string;
  readonly region: string;
  readonly service: string;
  readonly signedHeaders: readonly string[];
  readonly signature: string;
}

const SKEW_MS = 5 * 60_000;
const CLAIM =
  /^AWS4-HMAC-SHA256 +Credential=([\w]{1,128})\/(\d{8})\/([a-z0-9-]{1,64})\/([a-z0-9-]{1,64})\/aws4_request, *SignedHeaders=([a-z0-9;_-]{1,2048}), *Signature=([0-9a-f]{64})$/;

/** What an Authorization header claims. Throws `UNAUTHORIZED` when it cannot be read. */
export function readClaim(authorization: string): SignatureClaim {
  const [, accessKeyId = '', date = '', region = '', service = '', headers = '', signature = ''] = CLAIM.exec(authorization) ?? [];
  if (signature === '')
    throw refused('IncompleteSignatureException', 'the Authorization header is not a complete AWS4-HMAC-SHA256 signature');
  return { accessKeyId, date, region, service, signedHeaders: headers.split(';'), signature };
}

export interface SignatureCheck {
  readonly claim: SignatureClaim;
  readonly secretAccessKey: string;
  readonly request: SignedRequest;
  /** Milliseconds since the epoch. */
  readonly now: number;
}

/** Throws `UNAUTHORIZED` unless the holder of the secret signed exactly this request, for this service, lately. */
export function checkSignature({ claim, secretAccessKey, request, now }: SignatureCheck): void {
  const { headers } = request;
  const stamp = headers['x-amz-date'] ?? '';
  const [, year, month, day, hour, minute, second] = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(stamp) ?? [];
  const signedAt = Date.UTC(Number(year), Number(month) - 1, Number(day), Number(hour), Number(minute), Number(second));
  // A stamp of another form gives no number, and no number lies within the skew.
  if (!(Math.abs(now - signedAt) <= SKEW_MS))
    throw refused('InvalidSignatureException', 'x-amz-date is missing, malformed, or more than five minutes off');
  if (!stamp.startsWith(claim.date)) throw refused('InvalidSignatureException', 'the date of the credential is not that of x-amz-date');
  if (claim.service !== 'lambda') throw refused('InvalidSignatureException', 'the signature is for another service than lambda');
  const signed = new Set(claim.signedHeaders);
  const unsigned = Object.keys(headers).find(
    (name) => (name === 'host' || name.startsWith('x-amz-')) && headers[name] !== undefined && !signed.has(name),
  );
  if (unsigned !== undefined || !signed.has('host'))
    throw refused('InvalidSignatureException', `the header ${unsigned ?? 'host'} is not signed`);
  const bodyHash = hash('sha256', request.body, 'hex');
  const claimed = headers['x-amz-content-sha256'];
  if (claimed !== undefined && claimed !== bodyHash)
    throw refused('InvalidSignatureException', 'x-amz-content-sha256 is not the hash of the body');
  const expected = Buffer.from(sign({ claim, secretAccessKey, request, stamp, bodyHash }), 'hex');
  if (!timingSafeEqual(expected, Buffer.from(claim.signature, 'hex'))) {
    throw refused('InvalidSignatureException', 'the signature is not that of this request: check the secret access key');
  }
}

interface Signing extends Omit<SignatureCheck, 'now'> {
  readonly stamp: string;
  readonly bodyHash: string;
}

function sign({ claim, secretAccessKey, request, stamp, bodyHash }: Signing): string {
  const { date, region, service, signedHeaders } = claim;
  const canonicalHeaders = signedHeaders
    .map((name) => `${name}:${(Object.hasOwn(request.headers, name) ? (request.headers[name] ?? '') : '').trim().replace(/ +/g, ' ')}\n`)
    .join('');
  const canonical = [
    request.method,
    // Each part of the path is encoded once by HTTP and once more here.
    request.path.split('/').map(encode).join('/'),
    canonicalQuery(request.query),
    canonicalHeaders,
    signedHeaders.join(';'),
    bodyHash,
  ].join('\n');
  const scope = `${date}/${region}/${service}/aws4_request`;
  const toSign = `AWS4-HMAC-SHA256\n${stamp}\n${scope}\n${hash('sha256', canonical, 'hex')}`;
  let key: string | Buffer = `AWS4${secretAccessKey}`;
  for (const part of [date, region, service, 'aws4_request']) key = createHmac('sha256', key).update(part).digest();
  return createHmac('sha256', key).update(toSign).digest('hex');
}

function canonicalQuery(query: string): string {
  const pairs = query
    .split('&')
    .filter((pair) => pair !== '')
    .map((pair) => {
      const [name = '', ...value] = pair.split('=');
      return [encode(decode(name)), encode(decode(value.join('=')))] as const;
    });
  const order = (left: string, right: string): number => (left < right ? -1 : left > right ? 1 : 0);
  return pairs
    .toSorted(([a, x], [b, y]) => order(a, b) || order(x, y))
    .map(([name, value]) => `${name}=${value}`)
    .join('&');
}

function encode(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (one) => `%${one.charCodeAt(0).toString(16).toUpperCase()}`);
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** `awsType` is what AWS calls it; AWS answers 403 to all of these. */
export function refused(awsType: string, message: string): RunnerError {
  return new RunnerError('UNAUTHORIZED', message, { details: { awsType } });
}
