/** Functions as a Terraform configuration, in its JSON syntax. */

import { ALIAS, BASIC_POLICY, invocation, lambdaSchedules, lambdaSettings, packageFiles, trust } from './export-functions.ts';
import type { LambdaSchedule } from './export-functions.ts';
import { json } from './export-files.ts';
import type { ExportInput, Exported, ExportedFunction } from './export-files.ts';

type Resources = Record<string, Record<string, object>>;

export function terraform(input: ExportInput): Exported {
  const warnings: string[] = [];
  const resource: Resources = {};
  const output: Record<string, object> = {};
  for (const fn of input.functions) {
    const { schedules, warnings: lost } = lambdaSchedules(fn);
    warnings.push(...lost);
    addFunction(resource, fn);
    if (schedules.length > 0) addSchedules(resource, fn, schedules);
    output[id(fn.name)] = { description: `What calls of ${fn.name} go to.`, value: `\${aws_lambda_alias.${id(fn.name)}.arn}` };
  }
  const configuration = {
    terraform: { required_version: '>= 1.5', required_providers: { aws: { source: 'hashicorp/aws', version: '>= 5.80' } } },
    variable: { region: { type: 'string', default: input.region ?? 'us-east-1' } },
    provider: { aws: { region: '${var.region}', default_tags: [{ tags: { 'managed-by': 'terraform' } }] } },
    resource,
    output,
  };
  return {
    files: { 'main.tf.json': json(configuration), ...packageFiles(input) },
    warnings,
    usage: 'terraform init && terraform apply',
  };
}

function addFunction(resource: Resources, fn: ExportedFunction): void {
  const { name, code, config } = fn;
  const settings = lambdaSettings(fn);
  const key = id(name);
  of(resource, 'aws_iam_role')[key] = { name_prefix: prefix(name), assume_role_policy: JSON.stringify(trust('lambda.amazonaws.com')) };
  of(resource, 'aws_iam_role_policy_attachment')[key] = {
    role: `\${aws_iam_role.${key}.name}`,
    policy_arn: `arn:aws:iam::aws:policy/${BASIC_POLICY}`,
  };
  of(resource, 'aws_cloudwatch_log_group')[key] = { name: `/aws/lambda/${name}`, retention_in_days: settings.logRetentionDays };
  of(resource, 'aws_lambda_function')[key] = {
    function_name: name,
    ...(config.description !== undefined && { description: escaped(config.description) }),
    runtime: settings.runtime,
    handler: settings.handler,
    filename: `\${path.module}/${name}.zip`,
    source_code_hash: Buffer.from(code.sha256, 'hex').toString('base64'),
    role: `\${aws_iam_role.${key}.arn}`,
    memory_size: settings.memoryMb,
    timeout: settings.timeoutSeconds,
    ephemeral_storage: [{ size: settings.ephemeralMb }],
    architectures: [settings.architecture],
    publish: true,
    ...(Object.keys(settings.environment).length > 0 && { environment: [{ variables: escapedValues(settings.environment) }] }),
    ...(config.concurrencyMax !== undefined && { reserved_concurrent_executions: config.concurrencyMax }),
    ...(Object.keys(settings.tags).length > 0 && { tags: escapedValues(settings.tags) }),
    depends_on: [`aws_cloudwatch_log_group.${key}`, `aws_iam_role_policy_attachment.${key}`],
  };
  of(resource, 'aws_lambda_alias')[key] = {
    name: ALIAS,
    function_name: `\${aws_lambda_function.${key}.function_name}`,
    function_version: `\${aws_lambda_function.${key}.version}`,
  };
  if (config.instancesMin !== undefined && config.instancesMin > 0) {
    of(resource, 'aws_lambda_provisioned_concurrency_config')[key] = {
      function_name: `\${aws_lambda_function.${key}.function_name}`,
      qualifier: `\${aws_lambda_alias.${key}.name}`,
      provisioned_concurrent_executions: config.instancesMin,
    };
  }
}

function addSchedules(resource: Resources, { name }: ExportedFunction, schedules: readonly LambdaSchedule[]): void {
  const key = id(name);
  const role = `${key}_schedules`;
  of(resource, 'aws_iam_role')[role] = { name_prefix: prefix(name), assume_role_policy: JSON.stringify(trust('scheduler.amazonaws.com')) };
  of(resource, 'aws_iam_role_policy')[role] = {
    name: 'invoke',
    role: `\${aws_iam_role.${role}.id}`,
    policy: JSON.stringify(invocation([`\${aws_lambda_alias.${key}.arn}`])),
  };
  for (const schedule of schedules) {
    const { Mode, MaximumWindowInMinutes } = schedule.window;
    of(resource, 'aws_scheduler_schedule')[id(schedule.name)] = {
      name: schedule.name,
      schedule_expression: schedule.expression,
      schedule_expression_timezone: schedule.timezone,
      flexible_time_window: [
        { mode: Mode, ...(MaximumWindowInMinutes !== undefined && { maximum_window_in_minutes: MaximumWindowInMinutes }) },
      ],
      target: [{ arn: `\${aws_lambda_alias.${key}.arn}`, role_arn: `\${aws_iam_role.${role}.arn}`, input: escaped(schedule.event) }],
    };
  }
}

const of = (resource: Resources, type: string): Record<string, object> => (resource[type] ??= {});

/** It begins with no digit. */
const id = (name: string): string => name.replaceAll(/[^A-Za-z0-9_-]/g, '_').replace(/^[^A-Za-z_]/, '_$&');
/** The provider allows 38 characters. */
const prefix = (name: string): string => `${name.slice(0, 37)}-`;

/** `${` and `%{` begin something in Terraform. */
function escaped(text: string): string {
  return text.replaceAll(/[$%]\{/g, (opening) => opening.charAt(0) + opening);
}

function escapedValues(values: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, escaped(value)]));
}
