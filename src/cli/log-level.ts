import { RunnerError } from '../errors.ts';
import type { LogLevel } from '../telemetry/pino.ts';
import type { Io } from './output.ts';

const LOG_LEVELS: readonly LogLevel[] = ['debug', 'info', 'warn', 'error', 'silent'];

/** `LOG_LEVEL`, by default `warn`. Throws `CONFIG_INVALID`. */
export function logLevelOf({ env }: Io): LogLevel {
  const { LOG_LEVEL: given = 'warn' } = env;
  const found = LOG_LEVELS.find((level) => level === given);
  if (found === undefined) throw new RunnerError('CONFIG_INVALID', `LOG_LEVEL is ${given}; it must be one of ${LOG_LEVELS.join(', ')}`);
  return found;
}
