/** How somebody with a ticket gets a session: a challenge, its answer, and another token before the first runs out. */

import { RunnerError } from '../errors.ts';
import { json } from '../gateway/http.ts';
import type { Route } from '../gateway/http.ts';
import { anything, flag, list, number, object, optional, parseJson, record, text } from '../gateway/schema.ts';
import { Session } from './access.ts';
import type { Access, GivenSession } from './access.ts';

const CHALLENGE_REQUEST = object('who wants to enrol', {
  ticket: text({ about: 'the ticket', charsMax: 32_768 }),
  workerKey: text({ about: 'raw ed25519 public key of the worker, base64url', charsMax: 64 }),
  nonce: text({ about: 'of the worker: 16 random bytes or more, base64url', charsMax: 86 }),
});
const CHALLENGE = object('what is to be signed', {
  nonce: text({ about: 'good once, for 30 seconds' }),
  serverKey: text({ about: 'that of the ticket' }),
  signature: text({ about: 'with that key, over ["bpr-challenge-1", nonce of the worker, nonce, ticket id] as JSON' }),
});
const ANSWER = object('the answer to a challenge', {
  nonce: text({ about: 'of the challenge', charsMax: 86 }),
  signature: text({ about: 'with the key of the worker, over ["bpr-enrol-1", nonce, ticket id, serverKey] as JSON', charsMax: 128 }),
});
const SESSION = object('a session', {
  workerId: text({ about: 'first 32 hexadecimal characters of the SHA-256 of the key' }),
  token: text({ about: 'for Authorization: Bearer' }),
  expiresAt: number('milliseconds since the epoch'),
  serverTime: number('now, by the clock of the control plane'),
  scopes: list(text({ about: 'a scope' }), { about: 'what it allows' }),
  capabilities: optional(list(text({ about: 'a capability' }), { about: 'those that claims may name; absent: any' })),
  limits: record(number('a limit'), 'of requests, in bytes and milliseconds'),
  engines: flag('functions may be called at /engines'),
  queue: optional(
    object('how the worker speaks to the servers of the queue itself', {
      plugin: text({ about: 'what speaks to them' }),
      options: record(anything('a value'), 'of the plugin'),
      jwt: text({ about: 'says what the holder of the key of the worker may do there, as long as the session lasts' }),
    }),
  ),
});

export interface EnrolApiOptions {
  readonly access: Access;
  readonly now: () => number;
  readonly limits: Readonly<Record<string, number>>;
  readonly hasEngines: boolean;
}

export function enrolRoutes({ access, now, limits, hasEngines }: EnrolApiOptions): Route[] {
  const answer = ({ grant, ...session }: GivenSession) => {
    const engines = hasEngines && session.scopes.some((scope) => scope === 'engines' || scope === 'admin');
    return json(200, { ...session, serverTime: now(), limits, engines, queue: grant });
  };
  return [
    {
      method: 'POST',
      path: '/enrol/challenge',
      scope: 'public',
      bodyBytesMax: 65_536,
      doc: {
        summary: 'The first step of an enrolment: the ticket is checked.',
        request: { contentType: 'application/json', schema: CHALLENGE_REQUEST.json },
        responses: { 200: { about: 'a challenge', schema: CHALLENGE.json } },
      },
      handle: ({ body }) => json(200, access.challenge(CHALLENGE_REQUEST.parse(parseJson(body, 'the body'), 'the body'))),
    },
    {
      method: 'POST',
      path: '/enrol',
      scope: 'public',
      bodyBytesMax: 4_096,
      doc: {
        summary: 'The second step: the key is proven.',
        request: { contentType: 'application/json', schema: ANSWER.json },
        responses: { 200: { about: 'a session', schema: SESSION.json } },
      },
      handle: async ({ body }) => answer(await access.enrol(ANSWER.parse(parseJson(body, 'the body'), 'the body'))),
    },
    {
      method: 'POST',
      path: '/enrol/renew',
      scope: 'session',
      doc: {
        summary: 'Another token; the one that asks works for a minute more.',
        responses: { 200: { about: 'a session', schema: SESSION.json } },
      },
      async handle({ caller }) {
        if (caller instanceof Session) return answer(await access.renew(caller));
        throw new RunnerError('REQUEST_INVALID', 'the token of an operator does not run out');
      },
    },
  ];
}
