/** Functions as CloudFormation and as SAM templates. */

import { createHash } from 'node:crypto';
import { ALIAS, BASIC_POLICY, invocation, lambdaSchedules, lambdaSettings, logicalId, packageFiles, trust } from './export-functions.ts';
import type { LambdaSchedule } from './export-functions.ts';
import { json } from './export-files.ts';
import type { ExportInput, Exported, ExportedFunction } from './export-files.ts';

const MANAGED_TAG = { Key: 'managed-by', Value: 'cloudformation' };
const PARAMETERS = {
  CodeBucket: { Type: 'String', Description: 'Bucket that holds the packages.' },
  CodePrefix: { Type: 'String', Default: '', Description: 'What the keys of the packages begin with.' },
};
const key = ({ name, code }: ExportedFunction): object => ({ 'Fn::Sub': `\${CodePrefix}${name}-${code.sha256.slice(0, 16)}.zip` });
const arn = (logical: string): object => ({ 'Fn::GetAtt': [logical, 'Arn'] });
const policyArn = (name: string): object => ({ 'Fn::Sub': `arn:\${AWS::Partition}:iam::aws:policy/${name}` });

export function cloudFormation(input: ExportInput): Exported {
  const resources: Record<string, object> = {};
  const outputs: Record<string, object> = {};
  const warnings: string[] = [];
  for (const fn of input.functions) {
    const { schedules, warnings: lost } = lambdaSchedules(fn);
    warnings.push(...lost);
    Object.assign(resources, functionResources(fn), scheduleResources(fn, schedules));
    outputs[logicalId(fn.name, 'Arn')] = { Description: `What calls of ${fn.name} go to.`, Value: { Ref: logicalId(fn.name, 'Alias') } };
  }
  const template = { AWSTemplateFormatVersion: '2010-09-09', Parameters: PARAMETERS, Resources: resources, Outputs: outputs };
  return {
    files: { 'template.json': json(template), ...packageFiles(input) },
    warnings,
    usage: [
      ...uploads(input),
      'aws cloudformation deploy --template-file template.json --stack-name NAME --capabilities CAPABILITY_IAM --parameter-overrides CodeBucket=BUCKET',
    ].join('\n'),
  };
}

function functionResources(fn: ExportedFunction): Record<string, object> {
  const { name } = fn;
  const settings = lambdaSettings(fn);
  const version = logicalId(name, `Version${digestOf(fn)}`);
  const tags = [MANAGED_TAG, ...Object.entries(settings.tags).map(([Key, Value]) => ({ Key, Value }))];
  return {
    [logicalId(name, 'Role')]: {
      Type: 'AWS::IAM::Role',
      Properties: { AssumeRolePolicyDocument: trust('lambda.amazonaws.com'), ManagedPolicyArns: [policyArn(BASIC_POLICY)], Tags: tags },
    },
    [logicalId(name, 'Logs')]: {
      Type: 'AWS::Logs::LogGroup',
      DeletionPolicy: 'Retain',
      UpdateReplacePolicy: 'Retain',
      Properties: { LogGroupName: `/aws/lambda/${name}`, RetentionInDays: settings.logRetentionDays },
    },
    [logicalId(name)]: {
      Type: 'AWS::Lambda::Function',
      DependsOn: logicalId(name, 'Logs'),
      Properties: {
        FunctionName: name,
        ...(fn.config.description !== undefined && { Description: fn.config.description }),
        Runtime: settings.runtime,
        Handler: settings.handler,
        Code: { S3Bucket: { Ref: 'CodeBucket' }, S3Key: key(fn) },
        Role: arn(logicalId(name, 'Role')),
        MemorySize: settings.memoryMb,
        Timeout: settings.timeoutSeconds,
        EphemeralStorage: { Size: settings.ephemeralMb },
        Architectures: [settings.architecture],
        ...(Object.keys(settings.environment).length > 0 && { Environment: { Variables: settings.environment } }),
        ...(fn.config.concurrencyMax !== undefined && { ReservedConcurrentExecutions: fn.config.concurrencyMax }),
        Tags: tags,
      },
    },
    [version]: {
      Type: 'AWS::Lambda::Version',
      DeletionPolicy: 'Retain',
      UpdateReplacePolicy: 'Retain',
      Properties: { FunctionName: { Ref: logicalId(name) }, CodeSha256: Buffer.from(fn.code.sha256, 'hex').toString('base64') },
    },
    [logicalId(name, 'Alias')]: {
      Type: 'AWS::Lambda::Alias',
      Properties: {
        Name: ALIAS,
        FunctionName: { Ref: logicalId(name) },
        FunctionVersion: { 'Fn::GetAtt': [version, 'Version'] },
        ...provisioned(fn),
      },
    },
  };
}

function provisioned({ config: { instancesMin = 0 } }: ExportedFunction): object {
  return instancesMin > 0 ? { ProvisionedConcurrencyConfig: { ProvisionedConcurrentExecutions: instancesMin } } : {};
}

/**
 * Of all that a version keeps: what differs in it makes another version, which calls go to, and the old one stays for a rollback. Under the
 * same name CloudFormation would change the function alone; under another one it is refused a version that differs in nothing.
 */
function digestOf(fn: ExportedFunction): string {
  const { tags: _, logRetentionDays: __, environment, ...settings } = lambdaSettings(fn);
  const variables = Object.entries(environment).toSorted(([a], [b]) => (a < b ? -1 : 1));
  const kept = JSON.stringify([fn.code.sha256, fn.config.description ?? '', settings, variables]);
  return createHash('sha256').update(kept).digest('hex').slice(0, 8);
}

function scheduleResources({ name }: ExportedFunction, schedules: readonly LambdaSchedule[]): Record<string, object> {
  if (schedules.length === 0) return {};
  const role = logicalId(name, 'SchedulesRole');
  const alias = { Ref: logicalId(name, 'Alias') };
  return {
    [role]: {
      Type: 'AWS::IAM::Role',
      Properties: {
        AssumeRolePolicyDocument: trust('scheduler.amazonaws.com'),
        Policies: [{ PolicyName: 'invoke', PolicyDocument: invocation([alias]) }],
      },
    },
    ...Object.fromEntries(
      schedules.map((schedule) => [
        logicalId(schedule.name, 'Schedule'),
        {
          Type: 'AWS::Scheduler::Schedule',
          Properties: {
            Name: schedule.name,
            ScheduleExpression: schedule.expression,
            ScheduleExpressionTimezone: schedule.timezone,
            FlexibleTimeWindow: schedule.window,
            Target: { Arn: alias, RoleArn: arn(role), Input: schedule.event },
          },
        },
      ]),
    ),
  };
}

export function sam(input: ExportInput): Exported {
  const resources: Record<string, object> = {};
  const warnings: string[] = [];
  for (const fn of input.functions) {
    const { schedules, warnings: lost } = lambdaSchedules(fn);
    warnings.push(...lost);
    const settings = lambdaSettings(fn);
    resources[logicalId(fn.name, 'Logs')] = functionResources(fn)[logicalId(fn.name, 'Logs')] ?? {};
    resources[logicalId(fn.name)] = {
      Type: 'AWS::Serverless::Function',
      DependsOn: logicalId(fn.name, 'Logs'),
      Properties: {
        FunctionName: fn.name,
        ...(fn.config.description !== undefined && { Description: fn.config.description }),
        CodeUri: `${fn.name}.zip`,
        Runtime: settings.runtime,
        Handler: settings.handler,
        MemorySize: settings.memoryMb,
        Timeout: settings.timeoutSeconds,
        EphemeralStorage: { Size: settings.ephemeralMb },
        Architectures: [settings.architecture],
        AutoPublishAlias: ALIAS,
        // Without it another configuration of the same package is no version, and calls never get it.
        AutoPublishAliasAllProperties: true,
        ...provisioned(fn),
        ...(Object.keys(settings.environment).length > 0 && { Environment: { Variables: settings.environment } }),
        ...(fn.config.concurrencyMax !== undefined && { ReservedConcurrentExecutions: fn.config.concurrencyMax }),
        Tags: { [MANAGED_TAG.Key]: MANAGED_TAG.Value, ...settings.tags },
        ...(schedules.length > 0 && { Events: Object.fromEntries(schedules.map((one) => [logicalId(one.name, 'Event'), event(one)])) }),
      },
    };
  }
  const template = { AWSTemplateFormatVersion: '2010-09-09', Transform: 'AWS::Serverless-2016-10-31', Resources: resources };
  return {
    files: { 'template.json': json(template), ...packageFiles(input) },
    warnings,
    usage: 'sam deploy --template-file template.json --stack-name NAME --capabilities CAPABILITY_IAM --resolve-s3',
  };
}

function event({ name, expression, timezone, window, event: input }: LambdaSchedule): object {
  return {
    Type: 'ScheduleV2',
    Properties: {
      Name: name,
      ScheduleExpression: expression,
      ScheduleExpressionTimezone: timezone,
      FlexibleTimeWindow: window,
      Input: input,
    },
  };
}

function uploads({ functions }: ExportInput): string[] {
  return functions.map(({ name, code }) => `aws s3 cp ${name}.zip s3://BUCKET/${name}-${code.sha256.slice(0, 16)}.zip`);
}
