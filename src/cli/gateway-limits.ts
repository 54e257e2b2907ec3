/** How much of the machine a gateway's functions may take: flags of `bpr gateway`, or its environment. */

import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import { RunnerError } from '../errors.ts';
import type { RuntimeLimits } from '../runtime/function-runtime.ts';
import type { Io } from './output.ts';

type LimitName = 'instancesMax' | 'instancesPerFunctionMax' | 'startsMax' | 'queueMax' | 'queueTimeoutMs';

export type LimitFlags = { readonly [Name in LimitName]?: number };

interface Limit {
  readonly flag: string;
  readonly variable: string;
  readonly about: string;
  readonly max: number;
}

const LIMITS: Readonly<Record<LimitName, Limit>> = {
  instancesMax: {
    flag: '--instances-max <count>',
    variable: 'BPR_INSTANCES_MAX',
    about: 'instances of all functions, of each backend (default: 1000)',
    max: 100_000,
  },
  instancesPerFunctionMax: {
    flag: '--instances-per-function-max <count>',
    variable: 'BPR_INSTANCES_PER_FUNCTION_MAX',
    about: 'instances of one version (default: 100)',
    max: 100_000,
  },
  startsMax: {
    flag: '--starts-max <count>',
    variable: 'BPR_STARTS_MAX',
    about: 'starts at the same time, of each backend (default: 8)',
    max: 1_000,
  },
  queueMax: {
    flag: '--queue-max <count>',
    variable: 'BPR_QUEUE_MAX',
    about: 'calls of one version that wait; one more is refused with 429 (default: 1000)',
    max: 1_000_000,
  },
  queueTimeoutMs: {
    flag: '--queue-timeout-ms <ms>',
    variable: 'BPR_QUEUE_TIMEOUT_MS',
    about: 'the longest that a call waits for an instance (default: 30000)',
    max: 900_000,
  },
};

export const LIMIT_VARIABLES = Object.values(LIMITS)
  .map(({ variable }) => variable)
  .join(', ');

export function addLimits(command: Command): Command {
  for (const { flag, about, max } of Object.values(LIMITS)) {
    command.option(flag, about, (text: string): number => {
      const value = within(text, max);
      if (value === undefined) throw new InvalidArgumentError(`It must be a number from 1 to ${max}.`);
      return value;
    });
  }
  return command;
}

/** A flag goes before its variable; what neither says is left to the runtime. Throws `CONFIG_INVALID`. */
export function limitsOf({ env }: Io, flags: LimitFlags): RuntimeLimits {
  const limits: Partial<Record<LimitName, number>> = {};
  for (const [name, { variable, max }] of Object.entries(LIMITS) as [LimitName, Limit][]) {
    const text = env[variable] ?? '';
    const value = flags[name] ?? (text === '' ? undefined : within(text, max));
    if (value !== undefined) limits[name] = value;
    else if (text !== '') throw new RunnerError('CONFIG_INVALID', `${variable} is ${text}; it must be a number from 1 to ${max}`);
  }
  return limits;
}

function within(text: string, max: number): number | undefined {
  const value = /^[1-9]\d{0,6}$/.test(text) ? Number(text) : Infinity;
  return value <= max ? value : undefined;
}
