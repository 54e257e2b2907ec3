import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { enrolmentParts, idOfKey, isSignedBy, makeIdentity, openIdentity, signParts } from './identity.ts';
import { checkTicketTime, readTicket, signTicket } from './ticket.ts';
import type { Ticket } from './ticket.ts';

const server = makeIdentity();
const TICKET: Ticket = {
  id: 'ab'.repeat(16),
  urls: ['https://jobs.example.org:3020', 'http://127.0.0.1:3020'],
  serverKey: server.publicKey,
  tlsKeySha256: 'x'.repeat(43),
  scopes: ['claim', 'objects'],
  capabilities: ['gpu'],
  notBefore: 1_000,
  expiresAt: 2_000,
  uses: 3,
};
const TEXT = signTicket(TICKET, server.privateKey);

function signedPayload(change: Readonly<Record<string, unknown>>): string {
  return signTicket({ ...TICKET, ...change }, server.privateKey);
}

describe('a ticket', () => {
  it('says what was signed, also with white space around it', () => {
    expect(readTicket(`\n${TEXT}\n`)).toEqual(TICKET);
    const { tlsKeySha256: _, capabilities: __, ...least } = TICKET;
    expect(readTicket(signTicket(least, server.privateKey))).toEqual(least);
  });

  const [prefix = '', payload = '', signature = ''] = TEXT.split('.');
  const widened = Buffer.from(JSON.stringify({ ...TICKET, scopes: ['admin'] })).toString('base64url');
  it.each([
    ['nothing', '', /empty/],
    ['a cut end', TEXT.slice(0, -3), /some are missing/],
    ['a line break', `${TEXT.slice(0, 50)}\n${TEXT.slice(50)}`, /line break/],
    ['a path', '/data/endpoint.ticket', /path of a file/],
    ['a newer form', TEXT.replace('bprt1', 'bprt2'), /newer version/],
    ['another content', `${prefix}.${widened}.${signature}`, /was changed/],
    ['another signature', `${prefix}.${payload}.${signature.startsWith('A') ? 'B' : 'A'}${signature.slice(1)}`, /was changed/],
    ['no JSON', `bprt1.${Buffer.from('{').toString('base64url')}.${signature}`, /not JSON/],
    ['a list', `bprt1.${Buffer.from('[]').toString('base64url')}.${signature}`, /no id/],
    ['an id of another form', signedPayload({ id: '../..' }), /no id/],
    ['no address', signedPayload({ urls: [] }), /no address/],
    ['an address that is none', signedPayload({ urls: ['file:///etc/passwd'] }), /no address/],
    ['an address without TLS elsewhere', signedPayload({ urls: ['http://jobs.example.org:3020'] }), /without TLS/],
    ['a scope that is not known', signedPayload({ scopes: ['everything'] }), /scopes/],
    ['a key that is none', signedPayload({ serverKey: 'x' }), /key of a control plane/],
    ['times that are none', signedPayload({ expiresAt: 'soon' }), /times/],
  ])('with %s is malformed, and the message does not repeat it', (_, text, why) => {
    let thrown: unknown;
    try {
      readTicket(text);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toMatchObject({ code: 'TICKET_MALFORMED', message: expect.stringMatching(why) });
    expect(String(thrown)).not.toContain(payload.slice(0, 40));
  });

  it('is good from its beginning until its end', () => {
    expect(() => checkTicketTime(TICKET, 999)).toThrow(expect.objectContaining({ code: 'TICKET_NOT_YET_VALID' }));
    checkTicketTime(TICKET, 1_000);
    checkTicketTime(TICKET, 1_999);
    expect(() => checkTicketTime(TICKET, 2_000)).toThrow(expect.objectContaining({ code: 'TICKET_EXPIRED' }));
  });
});

describe('an identity', () => {
  it('is made once, for its owner only, and is the same afterwards', () => {
    const folder = mkdtempSync(join(tmpdir(), 'identity-'));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const path = join(folder, 'deep', 'worker.key');
    const made = openIdentity(path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(openIdentity(path)).toMatchObject({ id: made.id, publicKey: made.publicKey });
    expect(made.id).toBe(idOfKey(made.publicKey));
    expect(readFileSync(path, 'utf8')).toContain('PRIVATE KEY');
    writeFileSync(path, 'rubbish');
    expect(() => openIdentity(path)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });

  it('signs what nobody else can sign, and nothing else', () => {
    const [worker, other] = [makeIdentity(), makeIdentity()];
    const parts = enrolmentParts('nonce', TICKET.id, server.publicKey);
    const signature = signParts(parts, worker.privateKey);
    expect(isSignedBy(worker.publicKey, parts, signature)).toBe(true);
    expect(isSignedBy(other.publicKey, parts, signature)).toBe(false);
    expect(isSignedBy(worker.publicKey, enrolmentParts('other', TICKET.id, server.publicKey), signature)).toBe(false);
    expect(isSignedBy(worker.publicKey, enrolmentParts('nonce', TICKET.id, other.publicKey), signature)).toBe(false);
    expect(isSignedBy('rubbish', parts, signature)).toBe(false);
  });
});
