/** Plugin `aws-lambda`: executors and deployments on AWS Lambda, machines on EC2. */

import type { Plugin } from '../../src/plugin.ts';
import { PEERS } from './client.ts';
import { LambdaDeployer } from './deployer.ts';
import { Ec2Host } from './ec2.ts';
import { LambdaExecutor } from './executor.ts';
import { DEPLOYER_CHECKS, EXECUTOR_CHECKS, HOST_CHECKS, parseOptions } from './options.ts';
import type { Ec2HostOptions, LambdaDeployerOptions, LambdaExecutorOptions } from './options.ts';

export { LambdaDeployer } from './deployer.ts';
export { Ec2Host } from './ec2.ts';
export { LambdaExecutor } from './executor.ts';
export { INSIGHTS } from './logs.ts';
export type { InsightsQuery } from './logs.ts';
export type {
  AwsCredentials,
  AwsOptions,
  AwsService,
  Ec2HostOptions,
  LambdaDeployerOptions,
  LambdaExecutorOptions,
  LambdaPlatform,
  LayerPackage,
} from './options.ts';
export type { FunctionMetrics } from './report.ts';
export type { SharedRole } from './shared-role.ts';

export const awsLambdaPlugin: Plugin = {
  name: 'aws-lambda',
  peers: PEERS,
  register(registry) {
    registry.executor(
      (options, context) =>
        new LambdaExecutor({ ...context, ...parseOptions<LambdaExecutorOptions>(options, EXECUTOR_CHECKS, ['function']) }),
    );
    registry.deployer(
      (options, context) => new LambdaDeployer({ ...context, ...parseOptions<LambdaDeployerOptions>(options, DEPLOYER_CHECKS) }),
    );
    registry.host((options, context) => new Ec2Host({ ...context, ...parseOptions<Ec2HostOptions>(options, HOST_CHECKS) }));
  },
};
