import { Option } from 'commander';
import type { Command } from 'commander';
import { RunnerError, toRunnerError } from '../../errors.ts';
import { parseCount, parseSince } from '../calls.ts';
import { print, table, timeText } from '../output.ts';
import type { Cli } from '../output.ts';

interface ScheduleFlags {
  readonly target?: string;
  readonly next: number;
  readonly from?: number;
  readonly strict?: true;
  readonly json?: true;
}

const TARGETS = [
  'eventbridge-rule',
  'eventbridge-scheduler',
  'gcp',
  'azure',
  'cloudflare',
  'digitalocean',
  'kubernetes',
  'crontab',
] as const;

const EXAMPLES = `
Examples:
  bpr schedule 'Mon-Fri 09:00 Europe/Berlin'               when it fires, and how every platform says it
  bpr schedule 'Mon *-05~03' --next 10
  bpr schedule '{"kind":"periodic","periodMs":420000}' --target kubernetes --strict

The grammar is that of systemd calendars (man systemd.time). What a platform cannot keep is named; with --strict it is an error.

Exit status: 0 done; 1 it cannot be read, or with --strict not kept; 2 called in a wrong way.`;

/** `bpr schedule`: when a schedule fires, and what it is on each platform. */
export function addSchedule(program: Command, { io }: Cli): void {
  program
    .command('schedule')
    .description('say when a schedule fires, and how each platform writes it')
    .argument('<schedule>', 'a calendar, or JSON')
    .addOption(new Option('--target <platform>', 'only this one').choices(TARGETS))
    .option('--next <count>', 'so many firings', parseCount, 5)
    .option('--from <time>', 'from then on: a date (default: now)', parseSince)
    .option('--strict', 'what a platform cannot keep is an error')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES)
    .action(async (text: string, flags: ScheduleFlags) => {
      const [{ parseSchedule }, { firings }, { translate }] = await Promise.all([
        import('../../schedule/schedule.ts'),
        import('../../schedule/firings.ts'),
        import('../../schedule/translate.ts'),
      ]);
      const schedule = parseSchedule(text.startsWith('{') ? parseJson(text) : text);
      const from = flags.from ?? Date.now();
      const times: string[] = [];
      for (const at of firings(schedule, from, { anchorMs: from })) {
        if (times.length === flags.next) break;
        times.push(timeText(at));
      }
      const platforms = TARGETS.filter((target) => flags.target === undefined || target === flags.target).map((target) => {
        try {
          return { target, ...translate(target, schedule, { strict: flags.strict ?? false }) };
        } catch (thrown) {
          const { code, message } = toRunnerError(thrown);
          if (flags.strict || flags.target !== undefined) throw thrown;
          return { target, problem: `${code}: ${message}` };
        }
      });
      const rows = platforms.map((one) =>
        'problem' in one
          ? [one.target, '', one.problem]
          : [one.target, [...one.expressions, one.timezone ?? 'UTC'].join('  '), one.losses.map(({ message }) => message).join('; ')],
      );
      print(io, flags.json, {
        document: { schedule, firings: times, platforms },
        text: [...(times.length === 0 ? ['it never fires'] : times), '', table([['platform', 'expression', 'not kept'], ...rows])].join(
          '\n',
        ),
      });
    });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new RunnerError('SCHEDULE_INVALID', `the schedule is no JSON: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  }
}
