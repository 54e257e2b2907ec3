/** Plugin `aws-lambda`: executors and deployments on AWS Lambda, machines on EC2. */

import type { Plugin } from '../../src/plugin.ts';
import { PEERS } from './client.ts';
import { LambdaExecutor } from './executor.ts';
import { EXECUTOR_CHECKS, parseOptions } from './options.ts';
import type { LambdaExecutorOptions } from './options.ts';

export { LambdaExecutor } from './executor.ts';
export type { AwsCredentials, AwsOptions, AwsService, LambdaExecutorOptions } from './options.ts';

export const awsLambdaPlugin: Plugin = {
  name: 'aws-lambda',
  peers: PEERS,
  register(registry) {
    registry.executor(
      (options, context) =>
        new LambdaExecutor({ ...context, ...parseOptions<LambdaExecutorOptions>(options, EXECUTOR_CHECKS, ['function']) }),
    );
  },
};
