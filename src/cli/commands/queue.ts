import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { InvalidArgumentError } from 'commander';
import { RunnerError } from '../../errors.ts';
import type { NewJob, QueueJobStatus, QueueResult, QueueStats } from '../../queue/queue.ts';
import { parseCount, parseNumber } from '../calls.ts';
import { ACCESS_HELP, collect, parseSpan, withAccess, withQueue } from '../control-access.ts';
import type { ControlFlags } from '../control-access.ts';
import { print, table, timeText } from '../output.ts';
import type { Cli, Io } from '../output.ts';

interface PublishFlags extends ControlFlags {
  readonly id?: string;
  readonly payload?: string;
  readonly file?: string;
  readonly header?: Readonly<Record<string, string>>;
  readonly priority?: number;
  readonly delay?: number;
  readonly within?: number;
  readonly attempts?: number;
  readonly require?: readonly string[];
  readonly wait?: true;
}

const EXAMPLES = `
Examples:
  bpr queue publish square --payload 7 --wait            prints the result; a program that runs this type must claim it
  bpr queue publish resize --file photo.jpg --id photo-1 --require gpu --priority 9
  bpr queue status photo-1
  bpr queue stats
  bpr queue dead                                         jobs whose attempts are used up
  bpr queue requeue photo-1                              as if new
${ACCESS_HELP}

Exit status: 0 done; 1 it failed, also the job with --wait; 2 called in a wrong way.`;

/** `bpr queue`: jobs of a control plane. */
export function addQueue(program: Command, { io }: Cli): void {
  const queue = program.command('queue').description('jobs in the work queue of a control plane').addHelpText('after', EXAMPLES);
  withAccess(queue.command('publish').description('publish a job'))
    .argument('<type>', 'what kind of work it is')
    .option('--payload <text>', 'default: none')
    .option('--file <path>', 'a file as payload; -: standard input')
    .option('--id <id>', 'idempotency key (default: a random one)')
    .option('--header <name=value>', 'goes with the payload; several by repeating', collectHeaders)
    .option('--priority <priority>', '0 to 9, higher first (default: 4)', parseNumber)
    .option('--delay <span>', 'not handed out before this has passed', parseSpan)
    .option('--within <span>', 'not handed out any more when this has passed', parseSpan)
    .option('--attempts <count>', 'attempts at most (default: 3)', parseCount)
    .option('--require <capability>', 'what a worker must be capable of; several by repeating', collect)
    .option('--wait', 'wait for the result, and print it')
    .addHelpText('after', EXAMPLES)
    .action((type: string, flags: PublishFlags) => publish(io, type, flags));
  withAccess(queue.command('status').description('what became of a job'))
    .argument('<id>', 'of the job')
    .addHelpText('after', EXAMPLES)
    .action(async (id: string, flags: ControlFlags) => {
      const status = await withQueue(io, flags, (one) => one.status(id));
      if (!status) throw new RunnerError('NOT_FOUND', `the queue has no record of job ${id}`, { details: { jobId: id } });
      print(io, flags.json, { document: status, text: table(statusRows(status)) });
    });
  withAccess(queue.command('stats').description('how many jobs, how old, at which workers'))
    .addHelpText('after', EXAMPLES)
    .action(async (flags: ControlFlags) => {
      const stats = await withQueue(io, flags, (one) => one.stats());
      print(io, flags.json, { document: stats, text: statsText(stats) });
    });
  addDead(queue, io);
}

function addDead(queue: Command, io: Io): void {
  withAccess(queue.command('dead').description('the dead letter: jobs whose attempts are used up'))
    .option('--after <id>', 'only those that died after this one')
    .option('--limit <count>', 'at most so many', parseCount, 100)
    .addHelpText('after', EXAMPLES)
    .action(async (flags: ControlFlags & { readonly after?: string; readonly limit: number }) => {
      const { after, limit } = flags;
      const jobs = await withQueue(io, flags, (one) => one.deadLetters({ limit, ...(after !== undefined && { after }) }));
      const rows = jobs.map(({ id, type, attempts, endedAt = 0, error }) => [
        id,
        type,
        String(attempts),
        timeText(endedAt),
        `${error?.code ?? ''}: ${error?.message.split('\n', 1)[0] ?? ''}`,
      ]);
      const text = rows.length === 0 ? 'no dead jobs' : table([['id', 'type', 'attempts', 'died', 'error'], ...rows]);
      print(io, flags.json, { document: { jobs }, text });
    });
  withAccess(queue.command('requeue').description('queue dead jobs again, as if new'))
    .argument('<id...>', 'of the jobs')
    .addHelpText('after', EXAMPLES)
    .action(async (ids: readonly string[], flags: ControlFlags) => {
      const requeued: string[] = [];
      await withQueue(io, flags, async (one) => {
        for (const id of ids) {
          if (!(await one.requeue(id)))
            throw new RunnerError('NOT_FOUND', `the dead letter has no job ${id}`, { details: { jobId: id, requeued } });
          requeued.push(id);
        }
      });
      print(io, flags.json, { document: { requeued }, text: `requeued ${requeued.join(', ')}` });
    });
}

async function publish(io: Io, type: string, flags: PublishFlags): Promise<void> {
  const { id, header, priority, delay, within, attempts, require: requires } = flags;
  if (flags.payload !== undefined && flags.file !== undefined)
    throw new RunnerError('CONFIG_INVALID', '--payload and --file exclude each other');
  const job: NewJob = {
    type,
    payload: flags.file === undefined ? Buffer.from(flags.payload ?? '') : readPayload(io, flags.file),
    ...(id !== undefined && { id }),
    ...(header && { headers: header }),
    ...(priority !== undefined && { priority }),
    ...(delay !== undefined && { delayMs: delay }),
    ...(within !== undefined && { deadline: Date.now() + within }),
    ...(attempts !== undefined && { attemptsMax: attempts }),
    ...(requires && { requires }),
  };
  await withQueue(io, flags, async (queue) => {
    const published = await queue.publish(job);
    if (!flags.wait) {
      print(io, flags.json, { document: published, text: `${published.id}${published.duplicate ? ' (it was there already)' : ''}` });
      return;
    }
    const result = await queue.result(published.id);
    print(io, flags.json, { document: { ...published, ...shownResult(result) }, text: Buffer.from(bytesOf(result)).toString('utf8') });
  });
}

function shownResult(result: QueueResult): Readonly<Record<string, unknown>> {
  return { headers: result.headers ?? {}, bodyBase64: Buffer.from(bytesOf(result)).toString('base64') };
}

/** The object store has been asked. */
function bytesOf({ body }: QueueResult): Uint8Array {
  return body instanceof Uint8Array ? body : new Uint8Array();
}

function readPayload({ cwd }: Io, path: string): Uint8Array {
  try {
    return readFileSync(path === '-' ? 0 : resolve(cwd, path));
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `the payload ${path} cannot be read`, { cause });
  }
}

function collectHeaders(text: string, before: Readonly<Record<string, string>> = {}): Readonly<Record<string, string>> {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('It must be name=value.');
  return { ...before, [text.slice(0, at).toLowerCase()]: text.slice(at + 1) };
}

function statusRows(status: QueueJobStatus): string[][] {
  const times = new Set(['publishedAt', 'availableAt', 'deadline', 'claimedAt', 'leaseUntil', 'endedAt']);
  return Object.entries(status).map(([name, value]: [string, unknown]) => [
    name,
    times.has(name) ? timeText(Number(value)) : typeof value === 'string' ? value : JSON.stringify(value),
  ]);
}

function statsText({ byState, delayed, oldestMs, waiting, totals, workers }: QueueStats): string {
  const states = Object.entries(byState).map(([state, count]) => [state, String(count)]);
  const lines = [
    table(states),
    `delayed ${delayed}, oldest ${(oldestMs / 1_000).toFixed(1)} s, ${waiting} claims wait`,
    `since it runs: ${totals.published} published, ${totals.claimed} claimed, ${totals.completed} completed, ${totals.failed} failed`,
  ];
  if (workers.length === 0) return lines.join('\n');
  const head = ['worker', 'holds', 'completed', 'failed', 'lost', 'last seen'];
  const rows = workers.map((one) => [
    one.workerId,
    String(one.claimed),
    String(one.completed),
    String(one.failed),
    String(one.lost),
    timeText(one.lastSeenAt),
  ]);
  return [...lines, table([head, ...rows])].join('\n');
}
