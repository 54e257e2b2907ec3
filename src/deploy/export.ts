/**
 * The same plan as files of other tools: CloudFormation, SAM, Terraform, Knative for functions; Kubernetes, Docker Compose, systemd for programs. Pure:
 * the same plan gives the same bytes.
 */

import { RunnerError } from '../errors.ts';
import { cloudFormation, sam } from './export-cloudformation.ts';
import type { ExportInput, Exported } from './export-files.ts';
import { knative } from './export-knative.ts';
import { compose, kubernetes, systemd } from './export-program.ts';
import { terraform } from './export-terraform.ts';

export const EXPORT_FORMATS = ['cloudformation', 'sam', 'terraform', 'knative', 'kubernetes', 'compose', 'systemd'] as const;
export type ExportFormat = (typeof EXPORT_FORMATS)[number];

/** Files are called by it. */
const NAME = /^[A-Za-z0-9][\w.-]*$/;

/** Throws `CONFIG_INVALID` for a function with another name than platforms take, and when there is nothing that the format is for, `SCHEDULE_INVALID`, `SCHEDULE_LOSSY`. */
export function exportPlan(format: ExportFormat, input: ExportInput): Exported {
  const isForFunctions = format === 'cloudformation' || format === 'sam' || format === 'terraform' || format === 'knative';
  if (isForFunctions && input.functions.length === 0) throw nothing(format, 'functions');
  for (const { name } of input.functions) {
    if (!NAME.test(name))
      throw new RunnerError('CONFIG_INVALID', `a function cannot be called ${JSON.stringify(name)}: write letters, digits, dashes, dots`);
  }
  const { program } = input;
  switch (format) {
    case 'cloudformation':
      return cloudFormation(input);
    case 'sam':
      return sam(input);
    case 'terraform':
      return terraform(input);
    case 'knative':
      return knative(input);
    case 'kubernetes':
      if (!program) throw nothing(format, 'an orchestrator');
      return kubernetes(program, input);
    case 'compose':
      if (!program) throw nothing(format, 'an orchestrator');
      return compose(program, input);
    case 'systemd':
      if (!program) throw nothing(format, 'an orchestrator');
      return systemd(program, input);
  }
}

function nothing(format: ExportFormat, what: string): RunnerError {
  return new RunnerError('CONFIG_INVALID', `${format} is for ${what}, and this plan has none`, { details: { format } });
}
