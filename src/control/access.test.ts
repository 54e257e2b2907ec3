import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { temporaryFolder } from '../../test/support/temporary-folders.ts';
import { systemClock } from '../clock.ts';
import { enrolmentParts, makeIdentity, signParts } from '../queue/identity.ts';
import type { Identity } from '../queue/identity.ts';
import type { RevokedWorker } from '../queue/shared-queue.ts';
import { readTicket } from '../queue/ticket.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { Access, Session } from './access.ts';
import type { AccessOptions } from './access.ts';
import { Registry } from './registry.ts';
import { Revocations } from './revocations.ts';
import { Tickets } from './tickets.ts';

const identity = makeIdentity();

interface WorldOptions extends Partial<AccessOptions> {
  readonly folder?: string;
}

/** The part of a control plane that lets workers in. */
function open({ folder = temporaryFolder('access'), ...options }: WorldOptions = {}) {
  const clock = options.clock ?? systemClock;
  const registry = Registry.open(folder);
  onTestFinished(() => registry.close());
  const access = new Access({ registry, identity, operators: [], clock, random: randomBytes, ...options });
  const file = { file: join(folder, 'endpoint.ticket'), fileTicket: { uses: 9, validMs: 60_000 } };
  const address = { urls: ['http://127.0.0.1:1'] };
  const tickets = new Tickets({ registry, access, identity, clock, random: randomBytes, address, ...file, scopes: ['claim', 'objects'] });
  /** What is to be said to enrol. */
  const answerOf = (ticket: string, worker: Identity) => {
    const { id } = readTicket(ticket);
    const { nonce } = access.challenge({ ticket, workerKey: worker.publicKey, nonce: 'n'.repeat(22) });
    return { nonce, signature: signParts(enrolmentParts(nonce, id, identity.publicKey), worker.privateKey) };
  };
  const enrol = (ticket: string, worker: Identity) => access.enrol(answerOf(ticket, worker));
  const identify = (token: string): Session => {
    const caller = access.identify({ headers: { authorization: `Bearer ${token}` } });
    if (caller instanceof Session) return caller;
    throw new Error('that is no session');
  };
  const revokeWorker = async ({ id }: Identity): Promise<void> => {
    const revokedAt = clock.now();
    const enrolments = registry.enrolments().filter(({ workerId }) => workerId === id);
    for (const one of enrolments) await registry.putEnrolment({ ...one, revokedAt }, Infinity);
    await access.endSessions((session) => session.id === id, 'the worker was revoked');
  };
  return { folder, registry, access, tickets, answerOf, enrol, identify, revokeWorker };
}

async function restart({ folder, registry }: Pick<ReturnType<typeof open>, 'folder' | 'registry'>, options: WorldOptions = {}) {
  await registry.close();
  return open({ ...options, folder });
}

const REVOKED = { status: 'rejected', reason: { code: 'TICKET_REVOKED' } };

it('who enrols while he is revoked stays out, with whatever ticket, and after a restart', async () => {
  const before = open();
  const { access, tickets, answerOf, enrol, revokeWorker } = before;
  const [worker, other] = [makeIdentity(), makeIdentity()];
  const [first, second] = [(await tickets.create({ uses: 2 })).ticket, (await tickets.create({})).ticket];
  for (const each of [worker, other]) await enrol(first, each);
  const answers = [answerOf(first, worker), answerOf(second, worker)];
  const [revoked, ...others] = await Promise.allSettled([revokeWorker(worker), ...answers.map((answer) => access.enrol(answer))]);
  expect(revoked).toMatchObject({ status: 'fulfilled' });
  expect(others).toMatchObject([REVOKED, REVOKED]);
  // The other way about, too.
  const [given] = await Promise.allSettled([enrol(first, other), revokeWorker(other)]);
  expect(given).toMatchObject(REVOKED);

  const later = await restart(before);
  for (const { id } of [worker, other]) expect(later.registry.revokedAt(id)).toBeTypeOf('number');
  expect([...later.registry.sessions()]).toEqual([]);
  expect(() => later.answerOf(second, worker)).toThrow(/was revoked at/);
});

it('a ticket that is revoked while it is replaced is revoked, after a restart too', async () => {
  const before = open();
  const { tickets, enrol } = before;
  const { ticket, record } = await tickets.create({});
  const worker = makeIdentity();
  const { token } = await enrol(ticket, worker);
  await Promise.all([tickets.replace(record.id), tickets.revoke(record.id)]);
  const later = await restart(before);
  expect(later.registry.ticket(record.id)).toMatchObject({ closedAt: expect.any(Number), revokedAt: expect.any(Number) });
  expect(() => later.identify(token)).toThrow(/not known/);
});

it('what is granted to a worker while its ticket is revoked nobody gets, and the servers are told of the worker', async () => {
  let meanwhile = async (): Promise<void> => undefined;
  const grant = async () => {
    await meanwhile();
    return { plugin: 'nats', options: {}, jwt: 'of a worker' };
  };
  const { registry, tickets, enrol } = open({ grant });
  const { ticket, record } = await tickets.create({});
  const worker = makeIdentity();
  await enrol(ticket, worker);
  const told: string[] = [];
  const queue = {
    async revoke(workers: readonly RevokedWorker[]) {
      told.push(...workers.map(({ publicKey }) => publicKey));
      return true;
    },
  };
  const revocations = new Revocations({ queue, registry, clock: systemClock, log: silentTelemetry.log, sessionMs: 60_000 });
  const late = { tokenSha256: 'ab'.repeat(32), workerId: worker.id, ticketId: record.id, expiresAt: systemClock.now() + 60_000 };
  meanwhile = async () => {
    await tickets.revoke(record.id);
    // One that was on its way to the disk.
    await registry.putSession(late);
    await revocations.tell();
  };
  await expect(enrol(ticket, worker)).rejects.toMatchObject({ code: 'TICKET_REVOKED' });
  expect(told).toEqual([worker.publicKey]);
});

it('a token that was replaced works for a minute more, and not again after a restart', async () => {
  let aheadMs = 0;
  const clock = { ...systemClock, now: () => systemClock.now() + aheadMs };
  const before = open({ clock });
  const worker = makeIdentity();
  const { token: old } = await before.enrol((await before.tickets.create({})).ticket, worker);
  const { token } = await before.access.renew(before.identify(old));
  const later = await restart(before, { clock });
  expect(later.identify(old).id).toBe(worker.id);
  aheadMs = 60_001;
  expect(() => later.identify(old)).toThrow(/not known or has run out/);
  expect(later.identify(token).id).toBe(worker.id);
});

it('a worker that asks for tokens again and again has the last hundred of them', async () => {
  const before = open();
  const [worker, other] = [makeIdentity(), makeIdentity()];
  const { ticket } = await before.tickets.create({ uses: 2 });
  const given = [await before.enrol(ticket, worker)];
  const ofOther = await before.enrol(ticket, other);
  for (let round = 0; round < 3; round += 1)
    given.push(...(await Promise.all(Array.from({ length: 50 }, () => before.enrol(ticket, worker)))));
  for (const { identify, registry } of [before, await restart(before)]) {
    expect([...registry.sessions()]).toHaveLength(101);
    for (const { token } of given.slice(0, 1)) expect(() => identify(token)).toThrow(/enrol again/);
    for (const { token } of given.slice(-50)) expect(identify(token).id).toBe(worker.id);
    expect(identify(ofOther.token).id).toBe(other.id);
  }
});

it('the file gets another ticket when half the time of its own is over, and that one stays good', async () => {
  const clock = new FakeClock();
  const { tickets, folder, enrol } = open({ clock });
  const read = (): string => readFileSync(join(folder, 'endpoint.ticket'), 'utf8');
  await tickets.openFile();
  const first = read();
  clock.jump(29_000);
  await tickets.renewFile();
  expect(read()).toBe(first);
  clock.jump(2_000);
  await tickets.renewFile();
  const second = read();
  expect(readTicket(second).expiresAt).toBe(clock.now() + 60_000);
  for (const ticket of [first, second]) await enrol(ticket, makeIdentity());
  await tickets.revoke(readTicket(second).id);
  clock.jump(40_000);
  await tickets.renewFile();
  expect(read()).toBe(second);
});
