/** Tickets and workers, for operators; and what a worker says of itself. */

import { RunnerError } from '../errors.ts';
import { json } from '../gateway/http.ts';
import type { Route } from '../gateway/http.ts';
import { choice, decimal, list, number, object, optional, parseJson, text, whole } from '../gateway/schema.ts';
import { TICKET_SCOPES } from '../queue/ticket.ts';
import type { WorkQueue } from '../queue/queue.ts';
import { Session } from './access.ts';
import type { Access } from './access.ts';
import type { Registry, TicketRecord } from './registry.ts';
import type { IssuedTicket, Tickets } from './tickets.ts';
import { WORKER_REPORT } from './workers.ts';
import type { Workers } from './workers.ts';

const TIME = { min: 0, max: 8.64e15 } as const;
const NEW_TICKET = object('a ticket', {
  name: optional(text({ about: 'for people', charsMax: 128 })),
  scopes: optional(list(choice('a scope', TICKET_SCOPES), { about: 'default: claim, publish, objects, and engines where there are some' })),
  capabilities: optional(
    list(text({ about: 'a capability', charsMax: 64 }), { about: 'those that workers may name; default: any', itemsMax: 256 }),
  ),
  notBefore: optional(whole({ about: 'milliseconds since the epoch; default: now', ...TIME })),
  expiresAt: optional(whole({ about: 'default: an hour after notBefore', ...TIME })),
  uses: optional(whole({ about: 'workers that may enrol; default 1', min: 1, max: 1_000_000 })),
});
const ID = text({ about: 'an id', pattern: /^[0-9a-f]{32}$/ });
const EVENTS = object('what happened', {
  events: list(
    object('one', {
      number: number('rises, also over restarts'),
      at: number('milliseconds since the epoch'),
      worker: text({ about: 'its id' }),
      change: choice('what happened', ['joined', 'left', 'lost', 'returned']),
    }),
    { about: 'all of them' },
  ),
});
const AFTER = optional(decimal({ about: 'number of the last event that is known', min: 0, max: Number.MAX_SAFE_INTEGER }));
const ANY = { type: 'object' } as const;

export interface AdminApiOptions {
  readonly access: Access;
  readonly registry: Registry;
  readonly workers: Workers;
  readonly queue: WorkQueue;
  readonly now: () => number;
  /** Once it listens. */
  readonly tickets: () => Tickets;
}

export function adminRoutes(options: AdminApiOptions): Route[] {
  return [...ticketRoutes(options), ...workerRoutes(options)];
}

function ticketRoutes({ tickets, registry }: AdminApiOptions): Route[] {
  const shown = (record: TicketRecord) => ({ ...record, used: registry.enrolmentsOf(record.id).size });
  const issued = ({ ticket, record }: IssuedTicket) => json(200, { ticket, ...shown(record) });
  const scope = 'admin';
  const responses = { 200: { about: 'done', schema: ANY } };
  return [
    {
      method: 'POST',
      path: '/tickets',
      scope,
      bodyBytesMax: 65_536,
      doc: {
        summary: 'Makes a ticket. It is shown once.',
        request: { contentType: 'application/json', schema: NEW_TICKET.json },
        responses,
      },
      handle: async ({ body }) => issued(await tickets().create(NEW_TICKET.parse(parseJson(body, 'the body'), 'the body'))),
    },
    {
      method: 'GET',
      path: '/tickets',
      scope,
      doc: { summary: 'Tickets, without their secrets.', responses },
      handle: () => json(200, { tickets: tickets().list().map(shown) }),
    },
    {
      method: 'DELETE',
      path: '/tickets/{id}',
      scope,
      doc: { summary: 'Revokes a ticket: sessions of its workers end at once.', responses },
      handle: async ({ params }) => json(200, shown(await tickets().revoke(ID.parse(params['id'], 'id')))),
    },
    {
      method: 'POST',
      path: '/tickets/{id}/rotate',
      scope,
      doc: { summary: 'Another ticket in its place: nobody new enrols with the old one, who has goes on.', responses },
      handle: async ({ params }) => issued(await tickets().replace(ID.parse(params['id'], 'id'))),
    },
    {
      method: 'POST',
      path: '/tickets/rotate',
      scope,
      doc: { summary: 'The same for the ticket in the ticket file, which is written anew.', responses },
      handle: async () => issued(await tickets().rotateFile()),
    },
  ];
}

function workerRoutes({ access, registry, workers, queue, now }: AdminApiOptions): Route[] {
  const responses = { 200: { about: 'done', schema: ANY } };
  return [
    {
      method: 'GET',
      path: '/workers',
      scope: 'publish',
      doc: { summary: 'Workers that enrolled, with what is known of them.', responses },
      handle: async () => json(200, { workers: workers.list((await queue.stats()).workers) }),
    },
    {
      method: 'GET',
      path: '/workers/events',
      scope: 'publish',
      doc: {
        summary: 'Workers that joined, left, were lost, returned: the last 1,000 times, the oldest first.',
        query: { after: AFTER },
        responses: { 200: { about: 'those after this one', schema: EVENTS.json } },
      },
      handle({ query }) {
        return json(200, { events: workers.membership.after(AFTER.parse(query.get('after') ?? '0', 'after')) });
      },
    },
    {
      method: 'PUT',
      path: '/workers/self',
      scope: 'session',
      bodyBytesMax: 4_096,
      doc: { summary: 'How the worker that asks is.', request: { contentType: 'application/json', schema: WORKER_REPORT.json }, responses },
      handle({ body, caller }) {
        if (!(caller instanceof Session)) throw new RunnerError('REQUEST_INVALID', 'the token of an operator is no worker');
        workers.report(caller.id, WORKER_REPORT.parse(parseJson(body, 'the body'), 'the body'));
        return json(200, {});
      },
    },
    {
      method: 'DELETE',
      path: '/workers/{id}',
      scope: 'admin',
      doc: { summary: 'Revokes a worker: its sessions end at once, and it cannot enrol again, with no ticket.', responses },
      async handle({ params }) {
        const id = ID.parse(params['id'], 'id');
        const enrolments = registry.enrolments().filter(({ workerId }) => workerId === id);
        if (enrolments.length === 0) throw new RunnerError('NOT_FOUND', `there is no worker ${id}`, { details: { worker: id } });
        const revokedAt = now();
        for (const one of enrolments) await registry.putEnrolment({ ...one, revokedAt: one.revokedAt ?? revokedAt }, Infinity);
        await access.endSessions((session) => session.id === id, `the worker ${id} was revoked at ${new Date(revokedAt).toISOString()}`);
        return json(200, { id, revokedAt });
      },
    },
  ];
}
