import type { Command } from 'commander';
import { RunnerError } from '../../errors.ts';
import type { JobCounts, QueueJobStatus, QueueStats } from '../../queue/queue.ts';
import { parseCount } from '../calls.ts';
import { ACCESS_HELP, withAccess, withQueue } from '../control-access.ts';
import type { ControlFlags } from '../control-access.ts';
import { print, table, timeText } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { addPublish } from './queue-publish.ts';

const EXAMPLES = `
Examples:
  bpr queue publish --package hello.mjs --event '{"name":"Ada"}' --wait
                                                         calls its export handler on a worker (bpr worker) and prints the answer
  bpr queue publish --package src/jobs.ts --event '{"job_id":0,"args_base64":"..."}' --count 100
  bpr queue publish --package handler.ts --runtime wasm --event-file event.json
  bpr queue publish square --payload 7 --wait            prints the result; a program that runs this type must claim it
  bpr queue publish resize --file photo.jpg --id photo-1 --require gpu --priority 9
  bpr queue status photo-1
  bpr queue stats
  bpr queue dead                                         jobs whose attempts are used up
  bpr queue requeue photo-1                              as if new
  bpr queue discard photo-1                              forgotten: it is not done any more
${ACCESS_HELP}

Exit status: 0 done; 1 it failed, also a job with --wait; 2 called in a wrong way; 130 or 143 a signal ended the wait, the jobs stay.`;

/** `bpr queue`: jobs of a control plane. */
export function addQueue(program: Command, cli: Cli): void {
  const { io } = cli;
  const queue = program.command('queue').description('jobs in the work queue of a control plane').addHelpText('after', EXAMPLES);
  addPublish(queue, cli, EXAMPLES);
  withAccess(queue.command('status').description('what became of a job'))
    .argument('<id>', 'of the job')
    .addHelpText('after', EXAMPLES)
    .action(async (id: string, flags: ControlFlags) => {
      const status = await withQueue(io, flags, (one) => one.status(id));
      if (!status) throw new RunnerError('NOT_FOUND', `the queue has no record of job ${id}`, { details: { jobId: id } });
      print(io, flags.json, { document: status, text: table(statusRows(status)) });
    });
  withAccess(queue.command('stats').description('how many jobs, how old, how many a second, at which workers'))
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
          if (!(await one.requeue(id))) throw notDead(id, ids, { requeued });
          requeued.push(id);
        }
      });
      print(io, flags.json, { document: { requeued }, text: `requeued ${requeued.join(', ')}` });
    });
  withAccess(queue.command('discard').description('forget dead jobs'))
    .argument('<id...>', 'of the jobs')
    .addHelpText('after', EXAMPLES)
    .action(async (ids: readonly string[], flags: ControlFlags) => {
      const discarded: string[] = [];
      await withQueue(io, flags, async (one) => {
        for (const id of ids) {
          if (!(await one.discard(id))) throw notDead(id, ids, { discarded });
          discarded.push(id);
        }
      });
      print(io, flags.json, { document: { discarded }, text: `discarded ${discarded.join(', ')}` });
    });
}

/** Those before it are done: whoever runs the command again leaves them out. */
function notDead(id: string, ids: readonly string[], done: Readonly<Record<string, readonly string[]>>): RunnerError {
  const said = Object.entries(done).flatMap(([verb, before]) => {
    const after = ids.slice(before.length + 1);
    return [
      ...(before.length > 0 ? [`${verb}: ${before.join(', ')}`] : []),
      ...(after.length > 0 ? [`not ${verb} yet: ${after.join(', ')}`] : []),
    ];
  });
  return new RunnerError('NOT_FOUND', [`the dead letter has no job ${id}`, ...said].join('; '), { details: { jobId: id, ...done } });
}

function statusRows(status: QueueJobStatus): string[][] {
  const times = new Set(['publishedAt', 'availableAt', 'deadline', 'claimedAt', 'leaseUntil', 'endedAt']);
  return Object.entries(status).map(([name, value]: [string, unknown]) => [
    name,
    times.has(name) ? timeText(Number(value)) : typeof value === 'string' ? value : JSON.stringify(value),
  ]);
}

function countsText({ published, claimed, completed, failed }: JobCounts, show: (count: number) => string): string {
  return `${show(published)} published, ${show(claimed)} claimed, ${show(completed)} completed, ${show(failed)} failed`;
}

function statsText({ byState, byType = [], delayed, oldestMs, waiting, totals, rates, workers }: QueueStats): string {
  const states = Object.entries(byState).map(([state, count]) => [state, String(count)]);
  const lines = [
    table(states),
    ...(byType.length > 1
      ? [table([['type', 'queued', 'claimed'], ...byType.map((one) => [one.type, String(one.queued), String(one.claimed)])])]
      : []),
    `delayed ${delayed}, oldest ${(oldestMs / 1_000).toFixed(1)} s, ${waiting} claims wait`,
    `since it runs: ${countsText(totals, String)}`,
    `per second in the last minute: ${countsText(rates, (rate) => rate.toFixed(2))}`,
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
