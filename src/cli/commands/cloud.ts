import type { Command } from 'commander';
import type { Cli } from '../output.ts';
import { addAnalyze } from './cloud-analyze.ts';
import { addAws } from './cloud-aws.ts';
import { addConfigure } from './cloud-configure.ts';
import { addEstimate } from './cloud-estimate.ts';
import { addDeploy, addUpdate } from './cloud-deploy.ts';
import { addFunctions } from './cloud-functions.ts';
import { addExport } from './export.ts';
import { addPreflight } from './cloud-preflight.ts';
import { addPolicy, addShow } from './cloud-policy.ts';

const EXAMPLES = `
Examples:
  bpr cloud policy --serverless true --faas-provider aws-lambda --faas-memory 1024
  bpr cloud show --json
  bpr cloud preflight
  bpr cloud analyze --service-id 3
  bpr cloud estimate --compare --calls 3M`;

/** `bpr cloud`: what an operator wants of deployments, and what it would come to. */
export function addCloud(program: Command, cli: Cli): void {
  const cloud = program.command('cloud').description('deploy jobs as functions: policy, analysis, costs').addHelpText('after', EXAMPLES);
  for (const add of [
    addPolicy,
    addShow,
    addConfigure,
    addPreflight,
    addAnalyze,
    addEstimate,
    addDeploy,
    addUpdate,
    addFunctions,
    addExport,
    addAws,
  ])
    add(cloud, cli);
}
