import type { Command } from 'commander';
import type { Cli } from '../output.ts';
import { addPolicy, addShow } from './cloud-policy.ts';

const EXAMPLES = `
Examples:
  bpr cloud policy --serverless true --faas-provider aws-lambda --faas-memory 1024
  bpr cloud show --json`;

/** `bpr cloud`: what an operator wants of deployments, and what it would come to. */
export function addCloud(program: Command, cli: Cli): void {
  const cloud = program.command('cloud').description('deploy jobs as functions: policy, analysis, costs').addHelpText('after', EXAMPLES);
  for (const add of [addPolicy, addShow]) add(cloud, cli);
}
